// NumPy's C API, shared by the files of this extension; module.cc fills the table.
//
// Include this before any other header that includes Python.h.
//
// Threading:  the GIL is held around every call.
// Ownership:  NumPy's table lives for ever.
// Errors:     Python exceptions, as in any C API.
// Limits:     NumPy 2.1 or later at run time.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define PY_ARRAY_UNIQUE_SYMBOL penstock_numpy_api
#ifndef PENSTOCK_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>
