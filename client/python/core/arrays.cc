#include "client/python/core/arrays.h"

#include <penstock/shape.h>

#include <cstring>

#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/owned.h"

namespace penstock::python {
namespace {

// Below it a copy is over before the GIL could be given away and taken back.
constexpr int64_t kCopyWithGil = int64_t{64} << 10;

void CopyDense(const std::byte* from, void* to, int64_t nbytes) {
  if (nbytes == 0) return;
  if (nbytes <= kCopyWithGil) {
    std::memcpy(to, from, static_cast<size_t>(nbytes));
    return;
  }
  WithoutGil without_gil;
  std::memcpy(to, from, static_cast<size_t>(nbytes));
}

}  // namespace

PyObject* NewArray(const Layout& layout, ArrayAccess access) {
  PyArray_Descr* descr = NumpyDescr(layout.dtype);
  if (descr == nullptr) return nullptr;
  Py_INCREF(descr);  // stolen by the call
  static_assert(sizeof(npy_intp) == sizeof(int64_t));
  return PyArray_NewFromDescr(
      &PyArray_Type, descr, layout.rank, reinterpret_cast<const npy_intp*>(layout.shape),
      reinterpret_cast<const npy_intp*>(layout.strides), const_cast<std::byte*>(layout.data),
      access == ArrayAccess::kWritable ? NPY_ARRAY_WRITEABLE : 0, nullptr);
}

bool CopyElements(const Layout& from, const Layout& to) {
  if (from.c_contiguous() && to.c_contiguous()) {
    CopyDense(from.data, const_cast<std::byte*>(to.data), from.nbytes());
    return true;
  }
  Owned source(NewArray(from, ArrayAccess::kReadOnly));
  Owned target(NewArray(to, ArrayAccess::kWritable));
  return source && target &&
         PyArray_CopyInto(reinterpret_cast<PyArrayObject*>(target.get()),
                          reinterpret_cast<PyArrayObject*>(source.get())) == 0;
}

bool CopyToDense(const Layout& from, void* to) {
  if (from.c_contiguous()) {
    CopyDense(from.data, to, from.nbytes());
    return true;
  }
  const Shape shape(absl::MakeConstSpan(from.shape, static_cast<size_t>(from.rank)));
  const Strides strides = ContiguousStrides(from.dtype, shape);
  return CopyElements(
      from, {static_cast<const std::byte*>(to), from.shape, strides.data(), from.rank, from.dtype});
}

}  // namespace penstock::python
