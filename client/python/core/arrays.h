// NumPy arrays over given memory, and copies between layouts.
//
// Threading:  with the GIL; large copies let it go meanwhile.
// Ownership:  NewArray does not own its memory: the caller sets a base, or drops the array at once.
// Errors:     Python exceptions.
// Limits:     strided copies run at NumPy's speed.
#pragma once

#include "client/python/core/layout.h"
#include "client/python/core/numpy_api.h"

namespace penstock::python {

enum class ArrayAccess { kReadOnly, kWritable };

// New reference; null with a Python error set.
PyObject* NewArray(const Layout& layout, ArrayAccess access);

// Copies elements of the same dtype and shape. The memory of `to` is written.
bool CopyElements(const Layout& from, const Layout& to);

// The same into dense memory in C order, from.nbytes() long.
bool CopyToDense(const Layout& from, void* to);

}  // namespace penstock::python
