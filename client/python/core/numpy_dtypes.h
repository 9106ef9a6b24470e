// dtype <-> NumPy, in both directions.
//
// Types that NumPy does not have (bf16, fp8) are those of ml_dtypes when that can be imported, else
// unsigned integers of the same size.
//
// Threading:  with the GIL.
// Ownership:  descriptors are made once and kept; what is returned is borrowed.
// Errors:     a Python exception is set, or a Status is returned, as each function says.
// Limits:     f6_* has no NumPy type at all.
#pragma once

#include <penstock/dtype.h>

#include "absl/status/statusor.h"
#include "client/python/core/numpy_api.h"

namespace penstock::python {

// Borrowed; null with a Python error set (TypeError for f6_*).
PyArray_Descr* NumpyDescr(DType dtype);

// The dtype of an array's elements; InvalidArgument for types that no tensor can have (objects,
// text, dates, records, long double, other byte order).
absl::StatusOr<DType> FromNumpyDescr(PyArray_Descr* descr);

// What a user may write for a dtype: "f32", np.float32, np.dtype, torch.bfloat16, float, ...
absl::StatusOr<DType> ToDType(PyObject* object);

// "f32"; new reference to an interned string.
PyObject* DTypeString(DType dtype);

}  // namespace penstock::python
