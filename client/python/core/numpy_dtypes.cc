#include "client/python/core/numpy_dtypes.h"

#include <string>

#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

constexpr size_t kRows = static_cast<size_t>(kMaxDType) + 1;

std::string Text(PyObject* (*convert)(PyObject*), PyObject* object) {
  Owned text(convert(object));
  const char* utf8 = text ? PyUnicode_AsUTF8(text.get()) : nullptr;
  if (utf8 == nullptr) {
    PyErr_Clear();
    return "?";
  }
  return utf8;
}

PyObject* NewDescr(PyObject* spec) {
  PyArray_Descr* descr = nullptr;
  if (spec == nullptr || PyArray_DescrConverter(spec, &descr) != NPY_SUCCEED) return nullptr;
  return reinterpret_cast<PyObject*>(descr);
}

// The descriptor of a type that NumPy lacks: ml_dtypes' or an unsigned integer.
PyObject* ForeignDescr(const DTypeTraits& traits) {
  if (traits.dtype != DType::kF4E2M1X2) {  // ml_dtypes' fp4 is one value a byte: another thing
    Owned module(PyImport_ImportModule("ml_dtypes"));
    if (module) {
      Owned type(PyObject_GetAttrString(module.get(), std::string(traits.long_name).c_str()));
      if (type) return NewDescr(type.get());
    }
    PyErr_Clear();
  }
  return reinterpret_cast<PyObject*>(
      PyArray_DescrFromType(traits.item_bytes == 2 ? NPY_UINT16 : NPY_UINT8));
}

absl::Status NoSuchElements(PyArray_Descr* descr) {
  return absl::InvalidArgumentError(StrCat(
      "tensor: elements of NumPy type ", Text(PyObject_Str, reinterpret_cast<PyObject*>(descr)),
      " cannot be stored; allowed are bool, integers of 8 to 64 bits, float16/32/64, "
      "complex64/128, and ml_dtypes' bfloat16 and float8"));
}

// Built-in kinds: by letter and size, because np.longlong and np.int64 differ in number only.
DType FromKind(char kind, npy_intp bytes) {
  switch (kind) {
    case 'b':
      return DType::kBool;
    case 'i':
      return bytes == 1   ? DType::kI8
             : bytes == 2 ? DType::kI16
             : bytes == 4 ? DType::kI32
             : bytes == 8 ? DType::kI64
                          : DType::kInvalid;
    case 'u':
      return bytes == 1   ? DType::kU8
             : bytes == 2 ? DType::kU16
             : bytes == 4 ? DType::kU32
             : bytes == 8 ? DType::kU64
                          : DType::kInvalid;
    case 'f':
      return bytes == 2   ? DType::kF16
             : bytes == 4 ? DType::kF32
             : bytes == 8 ? DType::kF64
                          : DType::kInvalid;
    case 'c':
      return bytes == 8 ? DType::kC64 : bytes == 16 ? DType::kC128 : DType::kInvalid;
    default:
      return DType::kInvalid;
  }
}

}  // namespace

PyArray_Descr* NumpyDescr(DType dtype) {
  static PyObject* table[kRows] = {};
  PyObject*& slot = table[static_cast<uint8_t>(dtype) < kRows ? static_cast<uint8_t>(dtype) : 0];
  if (slot != nullptr) return reinterpret_cast<PyArray_Descr*>(slot);
  const DTypeTraits& traits = TraitsOf(dtype);
  if (traits.item_bytes == 0) {
    SetTypeError(StrCat("elements of ", traits.name,
                        " are not whole bytes: NumPy has no such array; use view.bytes()"));
    return nullptr;
  }
  if (traits.typestr[1] == 'V') {
    slot = ForeignDescr(traits);
  } else {
    Owned spec(PyUnicode_FromStringAndSize(traits.typestr.data(),
                                           static_cast<Py_ssize_t>(traits.typestr.size())));
    slot = NewDescr(spec.get());
  }
  return reinterpret_cast<PyArray_Descr*>(slot);
}

absl::StatusOr<DType> FromNumpyDescr(PyArray_Descr* descr) {
  const int number = descr->type_num;
  if (number < NPY_NTYPES_LEGACY && number != NPY_LONGDOUBLE && number != NPY_CLONGDOUBLE) {
    if (descr->byteorder == '>') {
      return absl::InvalidArgumentError(StrCat(
          "tensor: the array is big-endian (",
          Text(PyObject_Str, reinterpret_cast<PyObject*>(descr)),
          "); tensors are little-endian: convert it first, x.astype(x.dtype.newbyteorder('<'))"));
    }
    const DType dtype = FromKind(descr->kind, PyDataType_ELSIZE(descr));
    if (dtype != DType::kInvalid) return dtype;
  } else if (number >= NPY_NTYPES_LEGACY) {  // ml_dtypes registers types of its own
    Owned name(PyObject_GetAttrString(reinterpret_cast<PyObject*>(descr), "name"));
    const char* utf8 = name ? PyUnicode_AsUTF8(name.get()) : nullptr;
    if (utf8 != nullptr) {
      absl::StatusOr<DType> dtype = ParseDType(utf8);
      if (dtype.ok() && ItemSize(*dtype) == static_cast<size_t>(PyDataType_ELSIZE(descr)))
        return dtype;
    }
    PyErr_Clear();
  }
  return NoSuchElements(descr);
}

absl::StatusOr<DType> ToDType(PyObject* object) {
  if (PyUnicode_Check(object)) {
    const char* utf8 = PyUnicode_AsUTF8(object);
    if (utf8 == nullptr) {
      PyErr_Clear();
      return absl::InvalidArgumentError("dtype: the name is not valid UTF-8");
    }
    return ParseDType(utf8);
  }
  if (PyArray_DescrCheck(object)) return FromNumpyDescr(reinterpret_cast<PyArray_Descr*>(object));
  if (object == Py_None) return ParseDType("None");
  const std::string text = Text(PyObject_Str, object);
  if (absl::StatusOr<DType> dtype = ParseDType(text); dtype.ok()) return dtype;  // torch.float32
  Owned descr(NewDescr(object));
  if (!descr) {
    PyErr_Clear();
    return ParseDType(text);
  }
  return FromNumpyDescr(reinterpret_cast<PyArray_Descr*>(descr.get()));
}

PyObject* DTypeString(DType dtype) {
  static PyObject* table[kRows] = {};
  PyObject*& slot = table[static_cast<uint8_t>(dtype) < kRows ? static_cast<uint8_t>(dtype) : 0];
  if (slot == nullptr) slot = PyUnicode_InternFromString(std::string(DTypeName(dtype)).c_str());
  Py_XINCREF(slot);
  return slot;
}

}  // namespace penstock::python
