// Looking and waiting: exists, stat, list, wait, watch, calls to the node.
#include <string>
#include <string_view>

#include "client/python/core/info.h"
#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "client/python/core/watch.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;

bool Exists(const Store& store, nb::object name_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  absl::StatusOr<bool> exists = false;
  {
    WithoutGil without_gil;
    exists = client->Exists(name);
  }
  if (!exists.ok()) ThrowStatus(exists.status(), name);
  return *exists;
}

nb::object Stat(const Store& store, nb::object name_object, nb::object version_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const std::optional<uint64_t> version = CountArgument(version_object, "version", 1);
  absl::StatusOr<TensorInfo> info = absl::UnknownError("");
  {
    WithoutGil without_gil;
    info = client->Stat(name, version);
  }
  if (!info.ok()) ThrowStatus(info.status(), name);
  return nb::steal(NewInfo(*std::move(info)));
}

// One page: (list of TensorInfo, whether there is more)
nb::object ListPage(const Store& store, nb::object prefix_object, nb::object after_object,
                    uint32_t limit) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view prefix = TextArgument(prefix_object, "prefix");
  const std::string_view after = TextArgument(after_object, "after");
  absl::StatusOr<penstock::ListPage> page = absl::UnknownError("");
  {
    WithoutGil without_gil;
    page = client->List(prefix, after, limit);
  }
  if (!page.ok()) ThrowStatus(page.status(), prefix);
  nb::list items;
  for (TensorInfo& info : page->items) items.append(nb::steal(NewInfo(std::move(info))));
  return nb::make_tuple(items, page->more);
}

nb::object Wait(const Store& store, nb::object name_object, nb::object version_object,
                nb::object timeout_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  const uint64_t version = CountArgument(version_object, "version", 1).value_or(0);
  const std::optional<absl::Duration> timeout = SecondsArgument(timeout_object, "timeout");
  absl::StatusOr<TensorInfo> info = WaitInSlices(
      timeout, [&](absl::Duration slice) { return client->Wait(name, version, slice); });
  if (!info.ok()) ThrowStatus(info.status(), name);
  return nb::steal(NewInfo(*std::move(info)));
}

nb::object OpenWatch(const Store& store, nb::object prefix_object, nb::object from_object) {
  const std::shared_ptr<Client> client = store.Use();
  WatchOptions options;
  options.prefix = std::string(TextArgument(prefix_object, "prefix"));
  const std::optional<uint64_t> from = CountArgument(from_object, "from_version", 0);
  if (from == uint64_t{0}) {
    options.from_start = true;
  } else {
    options.after_sequence = from;
  }
  absl::StatusOr<std::unique_ptr<Watcher>> watcher = absl::UnknownError("");
  {
    WithoutGil without_gil;
    watcher = client->Watch(options);
  }
  if (!watcher.ok()) ThrowStatus(watcher.status(), options.prefix);
  return NewWatch(client, *std::move(watcher));
}

}  // namespace

void AddStoreLooks(StoreClass& type) {
  type.def("exists", Exists, "name"_a.none(), "Whether there is a tensor of this name.");
  type.def("stat", Stat, "name"_a.none(), "version"_a = nb::none(),
           "TensorInfo of a name, or of exactly one version of it. Raises NotFoundError.");
  type.def("_list_page", ListPage, "prefix"_a.none(), "after"_a.none(), "limit"_a);
  type.def(
      "wait", Wait, "name"_a.none(), "version"_a = nb::none(), "timeout"_a = nb::none(),
      "Waits until the name is there, or until its version is at least `version`.\n\n"
      "timeout: seconds, None = for ever. Returns TensorInfo; raises DeadlineError. Ctrl-C works.");
  type.def("_watch", OpenWatch, "prefix"_a.none(), "from_version"_a.none());
}

}  // namespace penstock::python
