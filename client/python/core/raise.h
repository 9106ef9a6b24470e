// Status -> Python exception: the one place where errors cross into Python.
//
// The classes live in penstock/errors.py; which one is taken is told by proto/errors.h.
//
// Threading:  with the GIL.
// Ownership:  the exception classes are looked up once and kept.
// Errors:     SetError leaves a Python exception set; the caller returns its error value.
// Limits:     the store's message is used as it is.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "client/python/core/numpy_api.h"

namespace penstock::python {

// A new instance of the exception for `status`, with `.name` = `tensor` (none if empty). Null with
// a Python error set if it cannot be made.
PyObject* MakeError(const absl::Status& status, std::string_view tensor);

// Sets it. Always returns null, so that a function can end with `return SetError(...)`.
PyObject* SetError(const absl::Status& status, std::string_view tensor = {});

// penstock.PartialError with `results`; steals nothing. Always returns null.
PyObject* SetPartialError(const std::string& message, PyObject* results);

// Sets TypeError with this text; always returns null.
PyObject* SetTypeError(const std::string& message);

// Thrown through nanobind functions when a Python error is already set.
[[noreturn]] void ThrowPythonError();
// SetError and ThrowPythonError.
[[noreturn]] void ThrowStatus(const absl::Status& status, std::string_view tensor = {});

// "int", "numpy.ndarray": for messages.
std::string TypeName(PyObject* object);

}  // namespace penstock::python
