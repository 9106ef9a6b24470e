// penstock ls: names under a prefix, page by page, so that a million of them stream.
#include <algorithm>

#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr uint32_t kPage = 1000;

constexpr FlagSpec kFlags[] = {
    {.name = "long", .letter = 'l', .help = "version, dtype, shape, size and age of each"},
    {.name = "limit", .value = "N", .help = "stop after N names [default: all]"},
    {.name = "after", .value = "NAME", .help = "only names that sort after NAME"},
};

constexpr Example kExamples[] = {
    {"penstock ls -l model/", "the tensors whose names begin with model/"},
    {"penstock ls -o json | jq -r '.[].name'", "every name, through jq"},
};

// Plain names: the node sends nothing else.
absl::StatusOr<bool> PrintNames(Invocation& invocation, std::string_view prefix, std::string* after,
                                uint64_t* left) {
  v1::ListRequest request;
  request.set_prefix(std::string(prefix));
  request.set_after(*after);
  request.set_limit(static_cast<uint32_t>(std::min<uint64_t>(kPage, *left)));
  request.set_names_only(true);
  CLI_ASSIGN_OR_RETURN(const v1::ListResponse page,
                       invocation.Call<v1::ListResponse>(rpc::Method::kList, request));
  std::string text;
  for (const v1::TensorInfo& info : page.items()) StrAppend(&text, info.name(), "\n");
  invocation.Print(text);
  if (page.items_size() == 0) return false;
  *after = page.items(page.items_size() - 1).name();
  *left -= static_cast<uint64_t>(page.items_size());
  return page.more();
}

class Printer {
 public:
  explicit Printer(Invocation& invocation) : invocation_(invocation) {
    if (invocation_.json()) invocation_.Print("[");
  }

  void Add(const ListPage& page) {
    for (const TensorInfo& info : page.items) {
      if (invocation_.json()) {
        invocation_.Print(StrCat(first_ ? "\n" : ",\n", TensorJson(info).dump()));
        first_ = false;
      } else {
        table_.Add({info.name, VersionText(info.version), std::string(DTypeName(info.dtype)),
                    info.shape.ToString(), FormatSize(info.nbytes),
                    AgeText(absl::Now() - info.created), ClassWord(info)});
      }
    }
    if (!invocation_.json()) table_.Print();
  }

  void End() {
    if (invocation_.json()) invocation_.Print("\n]\n");
  }

 private:
  Invocation& invocation_;
  bool first_ = true;
  Table table_{{{"NAME"},
                {"VERSION", Table::Align::kRight},
                {"DTYPE"},
                {"SHAPE"},
                {"SIZE", Table::Align::kRight},
                {"AGE", Table::Align::kRight},
                {"CLASS"}}};
};

absl::Status PrintInfos(Invocation& invocation, std::string_view prefix, std::string after,
                        uint64_t left) {
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  Printer printer(invocation);
  bool more = true;
  while (more && left > 0) {
    CLI_ASSIGN_OR_RETURN(
        const ListPage page,
        client->List(prefix, after, static_cast<uint32_t>(std::min<uint64_t>(kPage, left))));
    printer.Add(page);
    more = page.more && !page.items.empty();
    if (!page.items.empty()) after = page.items.back().name;
    left -= page.items.size();
  }
  printer.End();
  return absl::OkStatus();
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> limit, args.Number("limit"));
  uint64_t left = limit.value_or(UINT64_MAX);
  const std::string prefix = args.positional().empty() ? "" : args.positional()[0];
  std::string after = args.Get("after");
  if (invocation.json() || args.Has("long")) {
    return PrintInfos(invocation, prefix, std::move(after), left);
  }
  bool more = true;
  while (more && left > 0) {
    CLI_ASSIGN_OR_RETURN(more, PrintNames(invocation, prefix, &after, &left));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kLs = {
    .name = "ls",
    .arguments = "[PREFIX]",
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "list tensors",
    .details =
        "Prints the names that begin with PREFIX, in order of their bytes. The list is read "
        "page by page: tensors that come or go meanwhile may be missed or shown.",
    .json =
        "an array of tensors: name, version, term, dtype, shape, nbytes, created, keep, soft_pin, spilled, expires, "
        "replicas, nodes, metadata, immutable, crc32c",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
