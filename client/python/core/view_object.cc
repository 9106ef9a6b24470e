#include "client/python/core/view_object.h"

#include <cstring>
#include <string>

#include "client/python/core/info.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

PyTypeObject* view_type = nullptr;

// What zero-size tensors point at: consumers take null for "no memory yet".
alignas(256) const std::byte kNothing[256] = {};

ViewObject* Self(PyObject* self) { return reinterpret_cast<ViewObject*>(self); }

void DropLease(ViewObject* view) {
  if (Lease* lease = std::exchange(view->lease, nullptr)) lease->Drop();
}

void Dealloc(PyObject* self) {
  DropLease(Self(self));
  PyMem_Free(Self(self)->geometry);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyObject* Text(std::string_view text) {
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

PyObject* Tuple(const int64_t* numbers, int count) {
  PyObject* tuple = PyTuple_New(count);
  for (int i = 0; tuple != nullptr && i < count; ++i) {
    PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(numbers[i]));
  }
  return tuple;
}

// --- attributes ---
PyObject* Name(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : Text(view->lease->view().name());
}
PyObject* VersionOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr
                         : PyLong_FromUnsignedLongLong(view->lease->view().version().number);
}
PyObject* DTypeOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : DTypeString(view->layout.dtype);
}
PyObject* ShapeOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : Tuple(view->layout.shape, view->layout.rank);
}
PyObject* StridesOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : Tuple(view->layout.strides, view->layout.rank);
}
PyObject* NdimOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : PyLong_FromLong(view->layout.rank);
}
PyObject* SizeOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : PyLong_FromLongLong(view->layout.elements());
}
PyObject* NbytesOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : PyLong_FromLongLong(view->layout.nbytes());
}
PyObject* DeviceOf(PyObject* self, void*) {
  return LiveView(self) == nullptr ? nullptr : Text("cpu");
}
PyObject* PtrOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : PyLong_FromVoidPtr(const_cast<std::byte*>(view->layout.data));
}
PyObject* IsZeroCopy(PyObject* self, void*) {
  // A fetched tensor is a copy of the store, not of the view; a part that was read from another node is the view's own.
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : PyBool_FromLong(view->lease->view().path() == "map" || view->lease->view().path() == "fetch");
}
PyObject* PathOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : Text(view->lease->view().path());
}
PyObject* MetadataOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : MetadataDict(view->lease->view().metadata());
}
PyObject* InfoOf(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  return view == nullptr ? nullptr : NewInfo(view->lease->view().info());
}
PyObject* ReleasedOf(PyObject* self, void*) {
  return PyBool_FromLong(Self(self)->lease == nullptr);
}

// --- methods ---
PyObject* Release(PyObject* self, PyObject*) {
  DropLease(Self(self));
  Py_RETURN_NONE;
}
PyObject* Enter(PyObject* self, PyObject*) {
  if (LiveView(self) == nullptr) return nullptr;
  Py_INCREF(self);
  return self;
}
PyObject* Exit(PyObject* self, PyObject* const*, Py_ssize_t) { return Release(self, nullptr); }

PyObject* Reduce(PyObject* self, PyObject*) {
  return SetTypeError(
      "a TensorView cannot be pickled: it is a pin of this process; send its name and version, or "
      "view.numpy() for a copy of the bytes");
}

Py_ssize_t Length(PyObject* self) {
  ViewObject* view = LiveView(self);
  if (view == nullptr) return -1;
  if (view->layout.rank == 0) {
    SetTypeError("len() of a view without dimensions");
    return -1;
  }
  return view->layout.shape[0];
}

PyObject* Repr(PyObject* self) {
  ViewObject* view = Self(self);
  if (view->lease == nullptr) return Text("TensorView(released)");
  Owned name(Name(self, nullptr));
  Owned dtype(DTypeOf(self, nullptr));
  Owned shape(ShapeOf(self, nullptr));
  if (!name || !dtype || !shape) return nullptr;
  return PyUnicode_FromFormat("TensorView(name=%R, version=%llu, dtype=%R, shape=%R)", name.get(),
                              static_cast<unsigned long long>(view->lease->view().version().number),
                              dtype.get(), shape.get());
}

// None for a released view: notebooks then show its repr.
PyObject* Html(PyObject* self, PyObject*) {
  if (Self(self)->lease == nullptr) Py_RETURN_NONE;
  Owned module(PyImport_ImportModule("penstock._notebook"));
  return module ? PyObject_CallMethod(module.get(), "view_html", "O", self) : nullptr;
}

PyObject* CallModule(PyObject* self, const char* function) {
  if (LiveView(self) == nullptr) return nullptr;
  Owned module(PyImport_ImportModule("penstock._frameworks"));
  if (!module) return nullptr;
  return PyObject_CallMethod(module.get(), function, "O", self);
}
PyObject* Jax(PyObject* self, PyObject*) { return CallModule(self, "to_jax"); }
PyObject* Cupy(PyObject* self, PyObject*) { return CallModule(self, "to_cupy"); }
PyObject* Arrow(PyObject* self, PyObject*) { return CallModule(self, "to_arrow"); }
PyObject* ArrowCArray(PyObject* self, PyObject* args, PyObject* kwargs) {
  Owned array(CallModule(self, "to_arrow"));
  if (!array) return nullptr;
  Owned method(PyObject_GetAttrString(array.get(), "__arrow_c_array__"));
  return method ? PyObject_Call(method.get(), args, kwargs) : nullptr;
}

template <class Function>
PyCFunction AsMethod(Function function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"numpy", ViewNumpy, METH_NOARGS,
     "numpy($self)\n--\n\nThe tensor as a read-only numpy.ndarray over the store's memory: no "
     "copy. "
     "It keeps the tensor's bytes alive.\nbf16 and fp8 have ml_dtypes' types when that is "
     "installed, else unsigned integers. TypeError for f6_*."},
    {"torch", ViewTorch, METH_NOARGS,
     "torch($self)\n--\n\nThe tensor as a CPU torch.Tensor. From 32 KiB up over copy-on-write "
     "memory: no copy, and in-place changes stay private\nto this process's mapping of this view. "
     "Smaller tensors are copied."},
    {"jax", Jax, METH_NOARGS,
     "jax($self)\n--\n\nThe tensor as a jax.Array; without a copy where JAX's alignment allows."},
    {"cupy", Cupy, METH_NOARGS,
     "cupy($self)\n--\n\nThe tensor as a cupy.ndarray on the current GPU: a copy."},
    {"arrow", Arrow, METH_NOARGS,
     "arrow($self)\n--\n\nThe tensor as a pyarrow array without a copy: 1-d as a primitive array, "
     "n-d as rows of a fixed_shape_tensor array."},
    {"bytes", ViewBytes, METH_NOARGS,
     "bytes($self)\n--\n\nA copy of the elements as bytes, in C order."},
    {"release", Release, METH_NOARGS,
     "release($self)\n--\n\nGives the pin up; the view refuses further use. Arrays made from it "
     "keep "
     "a share of the pin until they die. Idempotent."},
    {"__enter__", Enter, METH_NOARGS, nullptr},
    {"__exit__", AsMethod(Exit), METH_FASTCALL, nullptr},
    {"__array__", AsMethod(ViewArray), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"__dlpack__", AsMethod(ViewDLPack), METH_VARARGS | METH_KEYWORDS,
     "__dlpack__($self, /, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\n"
     "A DLPack capsule (array API 2025.12). Versioned and marked READ_ONLY when max_version allows "
     "it, else legacy."},
    {"__dlpack_device__", ViewDLPackDevice, METH_NOARGS, nullptr},
    {"__arrow_c_array__", AsMethod(ArrowCArray), METH_VARARGS | METH_KEYWORDS, nullptr},
    {"__reduce__", Reduce, METH_NOARGS, nullptr},
    {"_repr_html_", Html, METH_NOARGS, "_repr_html_($self)\n--\n\nA table for notebooks."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"name", Name, nullptr, "Name of the tensor.", nullptr},
    {"version", VersionOf, nullptr, "Version number; it grows with every put of the name.",
     nullptr},
    {"dtype", DTypeOf, nullptr, "Element type by Penstock's name, as 'f32'.", nullptr},
    {"shape", ShapeOf, nullptr, "Elements per dimension.", nullptr},
    {"strides", StridesOf, nullptr, "Bytes from one element to the next, per dimension.", nullptr},
    {"ndim", NdimOf, nullptr, "Number of dimensions.", nullptr},
    {"size", SizeOf, nullptr, "Number of elements.", nullptr},
    {"nbytes", NbytesOf, nullptr, "Bytes of the elements that the view shows.", nullptr},
    {"device", DeviceOf, nullptr, "Where the memory is: 'cpu'.", nullptr},
    {"ptr", PtrOf, nullptr, "Address of the first element; read-only memory.", nullptr},
    {"is_zero_copy", IsZeroCopy, nullptr, "True: the view shows the store's own memory.", nullptr},
    {"path", PathOf, nullptr, "How the bytes came here: 'map', 'fetch', 'stream' or 'rdma'.", nullptr},
    {"metadata", MetadataOf, nullptr, "The tensor's metadata, str to str.", nullptr},
    {"info", InfoOf, nullptr, "TensorInfo of the whole tensor.", nullptr},
    {"released", ReleasedOf, nullptr, "Whether release() was called.", nullptr},
    {"__array_interface__", ViewArrayInterface, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_repr, reinterpret_cast<void*>(Repr)},
    {Py_mp_length, reinterpret_cast<void*>(Length)},
    {Py_mp_subscript, reinterpret_cast<void*>(ViewSubscript)},
    {Py_bf_getbuffer, reinterpret_cast<void*>(ViewGetBuffer)},
    {Py_bf_releasebuffer, reinterpret_cast<void*>(ViewReleaseBuffer)},
    {Py_tp_doc,
     const_cast<char*>("Read-only access to a tensor in the store's own memory.\n\nWhat it shows "
                       "never changes, whatever is put, deleted or evicted meanwhile. Any thread "
                       "may use it.")},
    {0, nullptr},
};

PyType_Spec spec = {
    "penstock.TensorView", sizeof(ViewObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};

ViewObject* NewObject(Lease* lease) {
  ViewObject* view = PyObject_New(ViewObject, view_type);
  if (view == nullptr) {
    lease->Drop();
    return nullptr;
  }
  view->lease = lease;
  view->geometry = nullptr;
  return view;
}

PyObject* NewWholeView(Lease* lease) {
  ViewObject* view = NewObject(lease);
  if (view == nullptr) return nullptr;
  const TensorView& held = lease->view();
  view->layout = {held.data() != nullptr ? held.data() : kNothing, held.shape().dims().data(),
                  held.strides().data(), held.shape().rank(), held.dtype()};
  return reinterpret_cast<PyObject*>(view);
}

}  // namespace

PyObject* NewView(TensorView&& tensor) { return NewWholeView(Lease::Hold(std::move(tensor))); }

PyObject* NewWarmView(Client* client, std::string_view name) {
  Lease* lease = Lease::GetWarm(client, name);
  return lease == nullptr ? nullptr : NewWholeView(lease);
}

PyObject* NewSubView(ViewObject* parent, const Layout& layout) {
  const size_t rank_bytes = sizeof(int64_t) * static_cast<size_t>(layout.rank);
  auto* geometry = static_cast<int64_t*>(PyMem_Malloc(2 * rank_bytes));
  if (geometry == nullptr) return PyErr_NoMemory();
  ViewObject* view = NewObject(parent->lease->Share());
  if (view == nullptr) {
    PyMem_Free(geometry);
    return nullptr;
  }
  if (rank_bytes != 0) {
    std::memcpy(geometry, layout.shape, rank_bytes);
    std::memcpy(geometry + layout.rank, layout.strides, rank_bytes);
  }
  view->geometry = geometry;
  view->layout = {layout.data, geometry, geometry + layout.rank, layout.rank, layout.dtype};
  return reinterpret_cast<PyObject*>(view);
}

bool IsView(PyObject* object) { return Py_IS_TYPE(object, view_type); }

ViewObject* LiveView(PyObject* object) {
  if (Self(object)->lease != nullptr) return Self(object);
  SetError(absl::InvalidArgumentError("view: it was released; get the tensor again"));
  return nullptr;
}

bool AddViewType(PyObject* module) {
  view_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  return view_type != nullptr && PyModule_AddType(module, view_type) == 0;
}

}  // namespace penstock::python
