#include "client/python/core/incoming.h"

#include <string>

#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/raise.h"
#include "client/python/core/view_object.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

// A tensor of torch, if torch is loaded at all. Borrowed; null without an error otherwise.
PyObject* TorchTensorType() {
  static PyObject* type = nullptr;
  if (type != nullptr) return type;
  PyObject* torch = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
  if (torch == nullptr) return nullptr;
  type = PyObject_GetAttrString(torch, "Tensor");
  if (type == nullptr) PyErr_Clear();  // torch is half imported
  return type;
}

// torch refuses to export gradients and lazily conjugated tensors: penstock/_frameworks.py.
Owned PlainTorchTensor(PyObject* object, const char* field) {
  Owned module(PyImport_ImportModule("penstock._frameworks"));
  if (!module) return {};
  return Owned(PyObject_CallMethod(module.get(), "plain_torch_tensor", "Os", object, field));
}

bool IsPlainData(PyObject* object) {
  return PyBool_Check(object) || PyLong_Check(object) || PyFloat_Check(object) ||
         PyComplex_Check(object) || PyList_Check(object) || PyTuple_Check(object) ||
         PyArray_IsScalar(object, Generic);
}

bool HasAttribute(PyObject* object, const char* name) {
  return PyObject_HasAttrString(object, name) != 0;
}

bool CheckDevice(PyObject* object, const char* field) {
  Owned device(PyObject_CallMethod(object, "__dlpack_device__", nullptr));
  Owned pair(device ? PySequence_Tuple(device.get()) : nullptr);
  if (!pair || PyTuple_GET_SIZE(pair.get()) != 2) return false;
  Owned type(PyNumber_Index(PyTuple_GET_ITEM(pair.get(), 0)));
  const long number = type ? PyLong_AsLong(type.get()) : -1;
  if (number == -1 && PyErr_Occurred() != nullptr) return false;
  if (number == kDLCPU || number == kDLCUDAHost) return true;
  SetError(absl::InvalidArgumentError(
      StrCat(field, ": lies on DLPack device type ", number,
             ", but only host memory (1) can be used: copy it to the CPU first")));
  return false;
}

// __dlpack__ by the newest convention that the producer knows.
Owned Export(PyObject* object) {
  Owned method(PyObject_GetAttrString(object, "__dlpack__"));
  Owned empty(PyTuple_New(0));
  Owned kwargs(Py_BuildValue("{s:(ii)}", "max_version", 1, 1));
  if (!method || !empty || !kwargs) return {};
  Owned capsule(PyObject_Call(method.get(), empty.get(), kwargs.get()));
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError) != 0) {
    PyErr_Clear();
    capsule = Owned(PyObject_CallNoArgs(method.get()));
  }
  return capsule;
}

}  // namespace

Incoming::Incoming(Incoming&& other) noexcept
    : data_(other.data_),
      dtype_(other.dtype_),
      shape_(other.shape_),
      strides_(other.strides_),
      writable_(other.writable_),
      source_(std::move(other.source_)),
      legacy_(std::exchange(other.legacy_, nullptr)),
      versioned_(std::exchange(other.versioned_, nullptr)) {}

Incoming::~Incoming() {
  if (legacy_ != nullptr && legacy_->deleter != nullptr) legacy_->deleter(legacy_);
  if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
}

bool Incoming::Read(PyObject* object, const char* field) {
  if (PyArray_Check(object)) return ReadArray(reinterpret_cast<PyArrayObject*>(object), field);
  if (IsView(object)) {
    ViewObject* view = LiveView(object);
    if (view == nullptr) return false;
    const Layout& layout = view->layout;
    data_ = layout.data;
    dtype_ = layout.dtype;
    if (!SetGeometry(layout.rank, layout.shape, field)) return false;
    strides_ = Strides(absl::MakeConstSpan(layout.strides, static_cast<size_t>(layout.rank)));
    source_ = Owned::Borrow(object);
    return true;
  }
  if (IsPlainData(object)) return ReadCopied(object, field);
  if (PyObject* tensor = TorchTensorType();
      tensor != nullptr && PyObject_IsInstance(object, tensor) == 1) {
    Owned plain = PlainTorchTensor(object, field);
    return plain && ReadDLPack(plain.get(), field);
  }
  if (!PyType_Check(object) && HasAttribute(object, "__dlpack__")) return ReadDLPack(object, field);
  if (PyObject_CheckBuffer(object) != 0) {
    Owned memory(PyMemoryView_FromObject(object));
    return memory && ReadConverted(memory.get(), field);
  }
  if (!PyType_Check(object) && HasAttribute(object, "__array_interface__")) {
    return ReadConverted(object, field);
  }
  if (!PyType_Check(object) && HasAttribute(object, "__array__")) return ReadCopied(object, field);
  SetTypeError(StrCat(field, ": ", TypeName(object),
                      " is no array; allowed are NumPy arrays, torch CPU tensors, and what has "
                      "__dlpack__, the buffer protocol, __array_interface__ or __array__"));
  return false;
}

bool Incoming::SetGeometry(int rank, const int64_t* shape, const char* field) {
  if (rank < 0 || rank > kMaxRank) {
    SetError(absl::InvalidArgumentError(
        StrCat(field, ": has ", rank, " dimensions; at most ", kMaxRank, " are allowed")));
    return false;
  }
  absl::StatusOr<Shape> checked =
      Shape::Create(absl::MakeConstSpan(shape, static_cast<size_t>(rank)));
  if (!checked.ok()) {
    SetError(checked.status());
    return false;
  }
  shape_ = *checked;
  return true;
}

bool Incoming::ReadArray(PyArrayObject* array, const char* field) {
  absl::StatusOr<DType> dtype = FromNumpyDescr(PyArray_DESCR(array));
  if (!dtype.ok()) {
    SetError(dtype.status());
    return false;
  }
  dtype_ = *dtype;
  data_ = PyArray_DATA(array);
  const int rank = PyArray_NDIM(array);
  if (!SetGeometry(rank, reinterpret_cast<const int64_t*>(PyArray_DIMS(array)), field))
    return false;
  strides_ = Strides(absl::MakeConstSpan(reinterpret_cast<const int64_t*>(PyArray_STRIDES(array)),
                                         static_cast<size_t>(rank)));
  writable_ = PyArray_ISWRITEABLE(array) != 0;
  source_ = Owned::Borrow(reinterpret_cast<PyObject*>(array));
  return true;
}

bool Incoming::ReadConverted(PyObject* object, const char* field) {
  Owned array(PyArray_FROM_O(object));
  if (!array) return false;
  return ReadArray(reinterpret_cast<PyArrayObject*>(array.get()), field);
}

bool Incoming::ReadCopied(PyObject* object, const char* field) {
  if (!ReadConverted(object, field)) return false;
  writable_ = false;  // what is written would be lost with the copy
  return true;
}

bool Incoming::ReadDLPack(PyObject* object, const char* field) {
  if (!CheckDevice(object, field)) return false;
  Owned capsule = Export(object);
  if (!capsule) return false;
  source_ = Owned::Borrow(object);
  if (PyCapsule_IsValid(capsule.get(), "dltensor_versioned") != 0) {
    versioned_ = static_cast<DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule.get(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.get(), "used_dltensor_versioned");
    if (versioned_->version.major != 1) {
      SetError(absl::InvalidArgumentError(StrCat(
          field, ": DLPack version ", versioned_->version.major, " is not known; allowed is 1")));
      return false;
    }
    writable_ = (versioned_->flags & (kDLFlagReadOnly | kDLFlagIsCopied)) == 0;
    return ReadTensor(versioned_->dl_tensor, field);
  }
  if (PyCapsule_IsValid(capsule.get(), "dltensor") != 0) {
    legacy_ = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.get(), "dltensor"));
    PyCapsule_SetName(capsule.get(), "used_dltensor");
    writable_ = true;
    return ReadTensor(legacy_->dl_tensor, field);
  }
  SetTypeError(StrCat(field, ": __dlpack__ of ", TypeName(object), " gave no DLPack capsule"));
  return false;
}

bool Incoming::ReadTensor(const DLTensor& tensor, const char* field) {
  absl::StatusOr<DType> dtype =
      DTypeFromDLPack({tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes});
  if (!dtype.ok()) {
    SetError(dtype.status());
    return false;
  }
  dtype_ = *dtype;
  data_ = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
  if (!SetGeometry(tensor.ndim, tensor.shape, field)) return false;
  if (tensor.strides == nullptr) {
    strides_ = ContiguousStrides(dtype_, shape_);
    return true;
  }
  strides_ = Strides(absl::MakeConstSpan(tensor.strides, static_cast<size_t>(tensor.ndim)));
  for (int i = 0; i < tensor.ndim; ++i) strides_[i] *= static_cast<int64_t>(ItemSize(dtype_));
  return true;
}

Layout Incoming::layout() const {
  return {static_cast<const std::byte*>(data_), shape_.dims().data(), strides_.data(),
          shape_.rank(), dtype_};
}

ConstTensorRef Incoming::ref() const {
  ConstTensorRef ref{data_, dtype_, shape_, {}};
  if (!layout().c_contiguous()) ref.strides.assign(strides_.begin(), strides_.end());
  return ref;
}

}  // namespace penstock::python
