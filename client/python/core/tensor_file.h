// penstock._core.TensorFile and write_safetensors: the safetensors files of penstock.safetensors.
//
// The format itself is client/files; here its readers and writers meet Python objects and stores.
//
// Threading:  any thread, with the GIL; bytes move without it.
// Ownership:  a TensorFile keeps its files mapped while it lives; what it gives out are copies.
// Errors:     InvalidArgumentError for unsound files and what the format cannot hold.
// Limits:     nobody may shorten a file while it is open (MappedFile).
#pragma once

#include <nanobind/nanobind.h>

namespace penstock::python {

void AddTensorFileType(nanobind::module_& module);     // tensor_file.cc
void AddSafetensorsWriter(nanobind::module_& module);  // tensor_file_write.cc

}  // namespace penstock::python
