// TensorInfo and metadata for Python.
//
// Threading:  with the GIL.
// Ownership:  values.
// Errors:     null with a Python error set.
// Limits:     attributes are converted when they are asked for.
#pragma once

#include <nanobind/nanobind.h>
#include <penstock/client.h>

namespace penstock::python {

// New references.
PyObject* NewInfo(TensorInfo&& info);
PyObject* MetadataDict(const Metadata& metadata);

void AddInfoType(nanobind::module_& module);

}  // namespace penstock::python
