// The Python object that stands behind an array as its owner (`array.base`).
//
// It holds one share of whatever owns the memory, and nothing else: no buffer, so that NumPy can
// never be talked into making a read-only array writable through it.
//
// Threading:  with the GIL.
// Ownership:  calls `drop(what)` once, when it is collected.
// Errors:     NewKeeper returns null with a Python error set, and has dropped the share then.
// Limits:     one small allocation.
#pragma once

#include "client/python/core/numpy_api.h"

namespace penstock::python {

using DropFunction = void (*)(void* what);

// Steals the share `what`.
PyObject* NewKeeper(void* what, DropFunction drop);

// Makes the type and adds it to the module; false with a Python error set.
bool AddKeeperType(PyObject* module);

}  // namespace penstock::python
