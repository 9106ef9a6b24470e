// Store.get: the call that everything else is built around.
#include <string>
#include <string_view>

#include "client/python/core/arrays.h"
#include "client/python/core/incoming.h"
#include "client/python/core/options.h"
#include "client/python/core/store.h"
#include "client/python/core/view_object.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

namespace nb = nanobind;

struct GetArguments {
  PyObject* name = nullptr;
  PyObject* box = Py_None;
  PyObject* version = Py_None;
  PyObject* out = Py_None;
  PyObject* device = Py_None;
  PyObject* wait = Py_None;
};

// Null with a Python error set when the arguments are wrong.
bool Parse(PyObject* const* args, Py_ssize_t count, PyObject* keywords, GetArguments* out) {
  if (count > 2) {
    SetTypeError(StrCat("get() takes a name and a box by position, but ", count, " were given"));
    return false;
  }
  if (count > 0) out->name = args[0];
  if (count > 1) out->box = args[1];
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < named; ++i) {
    PyObject* keyword = PyTuple_GET_ITEM(keywords, i);
    PyObject* value = args[count + i];
    PyObject** slot = nullptr;
    if (PyUnicode_CompareWithASCIIString(keyword, "box") == 0 && count < 2) slot = &out->box;
    if (PyUnicode_CompareWithASCIIString(keyword, "version") == 0) slot = &out->version;
    if (PyUnicode_CompareWithASCIIString(keyword, "out") == 0) slot = &out->out;
    if (PyUnicode_CompareWithASCIIString(keyword, "device") == 0) slot = &out->device;
    if (PyUnicode_CompareWithASCIIString(keyword, "wait") == 0) slot = &out->wait;
    if (PyUnicode_CompareWithASCIIString(keyword, "name") == 0 && count < 1) slot = &out->name;
    if (slot == nullptr) {
      PyErr_Format(PyExc_TypeError, "get() got an unexpected keyword argument %R", keyword);
      return false;
    }
    *slot = value;
  }
  if (out->name == nullptr) SetTypeError("get() needs a name");
  return out->name != nullptr;
}

void CheckDevice(PyObject* device) {
  if (device == Py_None) return;
  const nb::object text = nb::steal(PyObject_Str(device));  // torch.device("cpu") too
  if (!text.is_valid()) ThrowPythonError();
  if (TextArgument(text, "device") != "cpu") {
    ThrowStatus(absl::InvalidArgumentError(
        StrCat("device: is \"", TextArgument(text, "device"), "\"; allowed is \"cpu\"")));
  }
}

// What the C++ client is asked for. `box`, `out`: null, or to live while the options do.
class Options {
 public:
  Options(const GetArguments& arguments, const Layout* out) : box_(arguments.box), out_(out) {
    options_.version = CountArgument(nb::handle(arguments.version), "version", 1);
    options_.cancelled = [] {
      nb::gil_scoped_acquire gil;
      return PyErr_CheckSignals() != 0;
    };
    if (box_ != Py_None) {
      options_.part = [this](DType dtype, const Shape& shape) { return Choose(dtype, shape); };
    } else if (out != nullptr) {
      options_.check = [this](DType dtype, const Shape& shape) { return Check(dtype, shape); };
    }
  }
  Options(const Options&) = delete;

  const GetOptions& get() const { return options_; }

 private:
  absl::StatusOr<Part> Choose(DType dtype, const Shape& shape) const {
    const Strides strides = ContiguousStrides(dtype, shape);
    Part part;
    {
      nb::gil_scoped_acquire gil;
      const Layout whole{nullptr, shape.dims().data(), strides.span().data(), shape.rank(), dtype};
      // The Python error that is set says more than the status.
      if (!IndexedPart(whole, box_, &part)) return absl::InvalidArgumentError("box");
    }
    if (out_ == nullptr) return part;
    if (absl::Status s = Check(dtype, part.shape); !s.ok()) return s;
    return part;
  }

  absl::Status Check(DType dtype, const Shape& shape) const {
    const Shape out_shape(absl::MakeConstSpan(out_->shape, static_cast<size_t>(out_->rank)));
    if (dtype == out_->dtype && shape == out_shape) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat("out: is ", DTypeName(out_->dtype), out_shape.ToString(),
                                             ", but what is read is ", DTypeName(dtype), shape.ToString()));
  }

  PyObject* const box_;
  const Layout* const out_;
  GetOptions options_;
};

template <class T>
T ValueOrThrow(absl::StatusOr<T> result, std::string_view name) {
  if (PyErr_Occurred() != nullptr) ThrowPythonError();  // of the box, or Ctrl-C
  if (!result.ok()) ThrowStatus(result.status(), name);
  return *std::move(result);
}

// All of it, as a view.
TensorView GetTensor(const std::shared_ptr<Client>& client, const GetArguments& arguments) {
  const std::string_view name = TextArgument(arguments.name, "name");
  const std::optional<uint64_t> version =
      CountArgument(nb::handle(arguments.version), "version", 1);
  const std::optional<absl::Duration> wait = SecondsArgument(nb::handle(arguments.wait), "wait");
  absl::StatusOr<TensorView> view = absl::UnknownError("");
  if (wait.has_value()) {
    view = WaitInSlices(wait, [&](absl::Duration slice) {
      GetOptions options;
      options.version = version;
      options.wait = slice;
      return client->Get(name, options);
    });
  } else {
    WithoutGil without_gil;
    GetOptions options;
    options.version = version;
    view = version.has_value() ? client->Get(name, options) : client->Get(name);
  }
  return ValueOrThrow(std::move(view), name);
}

nb::object GetView(const std::shared_ptr<Client>& client, const GetArguments& arguments) {
  const std::string_view name = TextArgument(arguments.name, "name");
  if (arguments.box != Py_None && arguments.wait == Py_None) {
    const Options options(arguments, nullptr);
    absl::StatusOr<TensorView> part = absl::UnknownError("");
    {
      WithoutGil without_gil;
      part = client->Get(name, options.get());
    }
    TensorView view = ValueOrThrow(std::move(part), name);
    if (view.path() == "stream" || view.path() == "rdma") return nb::steal(NewView(std::move(view)));
  }
  nb::object view = nb::steal(NewView(GetTensor(client, arguments)));
  if (!view.is_valid() || arguments.box == Py_None) return view;
  return nb::steal(ViewSubscript(view.ptr(), arguments.box));  // it shares the lease of the whole
}

// Copies the view into `out`.
void CopyOut(PyObject* view, const Layout& to) {
  const Layout from = LiveView(view)->layout;
  const Shape from_shape(absl::MakeConstSpan(from.shape, static_cast<size_t>(from.rank)));
  const Shape to_shape(absl::MakeConstSpan(to.shape, static_cast<size_t>(to.rank)));
  if (from.dtype != to.dtype || !(from_shape == to_shape)) {
    ThrowStatus(absl::InvalidArgumentError(StrCat("out: is ", DTypeName(to.dtype),
                                                  to_shape.ToString(), ", but what is read is ",
                                                  DTypeName(from.dtype), from_shape.ToString())));
  }
  if (!CopyElements(from, to)) ThrowPythonError();
}

void ReadOut(const std::shared_ptr<Client>& client, const GetArguments& arguments) {
  Incoming target;
  if (!target.Read(arguments.out, "out")) ThrowPythonError();
  if (!target.writable()) {
    ThrowStatus(absl::InvalidArgumentError(StrCat(
        "out: ", TypeName(arguments.out), " is not writable memory; allowed is a writable array")));
  }
  const Layout to = target.layout();
  if (!to.c_contiguous() || arguments.wait != Py_None) {
    const nb::object view = GetView(client, arguments);
    if (!view.is_valid()) ThrowPythonError();
    return CopyOut(view.ptr(), to);
  }
  const std::string_view name = TextArgument(arguments.name, "name");
  const Options options(arguments, &to);
  absl::StatusOr<TensorInfo> read = absl::UnknownError("");
  {
    WithoutGil without_gil;
    read = client->ReadInto(name, const_cast<std::byte*>(to.data), static_cast<uint64_t>(to.nbytes()), options.get());
  }
  ValueOrThrow(std::move(read), name);
}

PyObject* SlowGet(Store* store, const GetArguments& arguments) {
  CheckDevice(arguments.device);
  const std::shared_ptr<Client> client = store->Use();
  if (arguments.out == Py_None) return GetView(client, arguments).release().ptr();
  ReadOut(client, arguments);
  Py_INCREF(arguments.out);
  return arguments.out;
}

// The view of a name that is in the catalog; null without an error when the long way has to be
// gone.
PyObject* WarmGet(Store* store, PyObject* name) {
  Client* client = store->client();
  if (client == nullptr || !PyUnicode_Check(name)) return nullptr;
  Py_ssize_t length = 0;
  const char* text = PyUnicode_AsUTF8AndSize(name, &length);
  if (text == nullptr) {
    PyErr_Clear();
    return nullptr;
  }
  return NewWarmView(client, {text, static_cast<size_t>(length)});
}

PyObject* Get(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  Store* store = nb::inst_ptr<Store>(self);
  if (count == 1 && keywords == nullptr) {
    PyObject* view = WarmGet(store, args[0]);
    if (view != nullptr || PyErr_Occurred() != nullptr) return view;
  }
  GetArguments arguments;
  if (!Parse(args, count, keywords, &arguments)) return nullptr;
  try {
    return SlowGet(store, arguments);
  } catch (nb::python_error& error) {
    error.restore();
    return nullptr;
  }
}

// None when the name cannot be had without asking: for the event loop of store.aio.
PyObject* GetIfWarm(PyObject* self, PyObject* name) {
  PyObject* view = WarmGet(nb::inst_ptr<Store>(self), name);
  if (view != nullptr || PyErr_Occurred() != nullptr) return view;
  Py_RETURN_NONE;
}

PyMethodDef get_method = {
    "get", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(Get)),
    METH_FASTCALL | METH_KEYWORDS,
    "get($self, name, box=None, *, version=None, out=None, device=None, wait=None)\n--\n\n"
    "The tensor `name` where it lies: a TensorView, or `out` filled with the elements.\n\n"
    "box: penstock.Box, slice, or tuple of slices and integers (NumPy meaning), relative to the\n"
    "tensor. version: exactly this one. out: writable array of the same dtype and shape; one "
    "copy,\n"
    "or none: what another node has is read straight into it, by RDMA where both hosts have it (after\n"
    "an error, anything may be in it).\n"
    "device: None or 'cpu'. wait: seconds to wait for the name to appear.\n"
    "Raises NotFoundError, InvalidArgumentError, UnavailableError, DeadlineError. Any thread."};
PyMethodDef get_if_warm_method = {
    "_get_if_warm", GetIfWarm, METH_O,
    "_get_if_warm($self, name, /)\n--\n\nget(name), or None if that needs a call."};

}  // namespace

void AddStoreGet(StoreClass& type) {
  auto* type_object = reinterpret_cast<PyTypeObject*>(type.ptr());
  for (PyMethodDef* method : {&get_method, &get_if_warm_method}) {
    const nb::object descriptor = nb::steal(PyDescr_NewMethod(type_object, method));
    if (!descriptor.is_valid() ||
        PyObject_SetAttrString(type.ptr(), method->ml_name, descriptor.ptr()) != 0) {
      ThrowPythonError();
    }
  }
}

}  // namespace penstock::python
