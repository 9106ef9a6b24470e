// Reads of several tensors at once, and the making of what is missing.
#include <string>
#include <string_view>
#include <vector>

#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "client/python/core/view_object.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

std::vector<std::string_view> Names(nb::handle sequence) {
  std::vector<std::string_view> names;
  const Py_ssize_t count = PyList_GET_SIZE(sequence.ptr());
  names.reserve(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    names.push_back(TextArgument(PyList_GET_ITEM(sequence.ptr(), i), "names"));
  }
  return names;
}

// A list of its own: the strings must not go while the GIL is away.
nb::object OwnList(nb::handle iterable) {
  if (PyUnicode_Check(iterable.ptr())) {
    SetTypeError("names: must be a list of names, not one str");
    ThrowPythonError();
  }
  nb::object list = nb::steal(PySequence_List(iterable.ptr()));
  if (!list.is_valid()) ThrowPythonError();
  return list;
}

void SetItem(nb::dict& dict, PyObject* key, nb::object value) {
  if (!value.is_valid() || PyDict_SetItem(dict.ptr(), key, value.ptr()) != 0) ThrowPythonError();
}

// names -> (dict name -> TensorView | Error, number of errors)
nb::object GetMany(const Store& store, nb::object iterable) {
  const std::shared_ptr<Client> client = store.Use();
  const nb::object list = OwnList(iterable);
  const std::vector<std::string_view> names = Names(list);
  nb::dict results;
  // What the catalog answers costs less than letting the GIL go; the rest is one call.
  std::vector<size_t> missing;
  for (size_t i = 0; i < names.size(); ++i) {
    nb::object view = nb::steal(NewWarmView(client.get(), names[i]));
    if (!view.is_valid() && PyErr_Occurred() != nullptr) ThrowPythonError();
    if (!view.is_valid()) {
      missing.push_back(i);
      view = nb::none();  // keeps the order
    }
    SetItem(results, PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)), std::move(view));
  }
  std::vector<absl::StatusOr<TensorView>> views;
  if (!missing.empty()) {
    WithoutGil without_gil;
    std::vector<GetRequest> requests(missing.size());
    for (size_t k = 0; k < missing.size(); ++k) requests[k].name = names[missing[k]];
    views = client->GetMany(requests);
  }
  int errors = 0;
  for (size_t k = 0; k < views.size(); ++k) {
    errors += views[k].ok() ? 0 : 1;
    const auto i = static_cast<Py_ssize_t>(missing[k]);
    SetItem(results, PyList_GET_ITEM(list.ptr(), i),
            nb::steal(views[k].ok() ? NewView(*std::move(views[k]))
                                    : MakeError(views[k].status(), names[missing[k]])));
  }
  return nb::make_tuple(results, errors);
}

uint32_t LongestPrefix(const Store& store, nb::object iterable) {
  const std::shared_ptr<Client> client = store.Use();
  const nb::object list = OwnList(iterable);
  const std::vector<std::string_view> given = Names(list);
  const std::vector<std::string> names(given.begin(), given.end());
  absl::StatusOr<uint32_t> count = 0u;
  {
    WithoutGil without_gil;
    count = client->LongestPrefix(names);
  }
  if (!count.ok()) ThrowStatus(count.status());
  return *count;
}

// `make` is called with the GIL, at most in one process at a time for a name.
nb::object GetOrCreate(const Store& store, nb::object name_object, nb::object make,
                       nb::object timeout_object) {
  const std::shared_ptr<Client> client = store.Use();
  const std::string_view name = TextArgument(name_object, "name");
  if (PyCallable_Check(make.ptr()) == 0) {
    SetTypeError(StrCat("make: must be callable, not ", TypeName(make.ptr())));
    ThrowPythonError();
  }
  const absl::Duration timeout =
      SecondsArgument(timeout_object, "timeout").value_or(absl::InfiniteDuration());
  std::optional<nb::python_error> raised;
  const auto call_make = [&](Client&) -> absl::Status {
    const nb::gil_scoped_acquire with_gil;
    const nb::object result = nb::steal(PyObject_CallNoArgs(make.ptr()));
    if (result.is_valid()) return absl::OkStatus();
    raised.emplace();
    return absl::AbortedError("make raised an exception");
  };
  absl::StatusOr<TensorView> view = absl::UnknownError("");
  {
    WithoutGil without_gil;
    view = client->GetOrCreate(name, call_make, timeout);
  }
  if (raised.has_value()) throw std::move(*raised);
  if (!view.ok()) ThrowStatus(view.status(), name);
  return nb::steal(NewView(*std::move(view)));
}

}  // namespace

void AddStoreReads(StoreClass& type) {
  using nb::literals::operator""_a;
  type.def("_get_many", GetMany, "names"_a.none())
      .def("_longest_prefix", LongestPrefix, "names"_a.none())
      .def("_get_or_create", GetOrCreate, "name"_a.none(), "make"_a.none(), "timeout"_a.none());
}

}  // namespace penstock::python
