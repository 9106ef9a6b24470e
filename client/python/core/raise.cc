#include "client/python/core/raise.h"

#include <nanobind/nanobind.h>

#include "client/python/core/owned.h"
#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

// A class of penstock.errors; borrowed, kept for ever.
PyObject* ErrorClass(ErrorKind kind) {
  static PyObject* classes[16] = {};
  PyObject*& slot = classes[static_cast<uint8_t>(kind) & 15];
  if (slot != nullptr) return slot;
  Owned module(PyImport_ImportModule("penstock.errors"));
  if (!module) return nullptr;
  std::string name = "Error";
  if (kind != ErrorKind::kOther && kind != ErrorKind::kOk) {
    name = StrCat(TraitsOf(kind).name, "Error");
  }
  slot = PyObject_GetAttrString(module.get(), name.c_str());
  return slot;
}

}  // namespace

PyObject* MakeError(const absl::Status& status, std::string_view tensor) {
  PyObject* type = ErrorClass(KindOf(status));
  if (type == nullptr) return nullptr;
  const std::string message(status.message());
  const std::string code = absl::StatusCodeToString(status.code());
  Owned args(Py_BuildValue("(s#)", message.data(), static_cast<Py_ssize_t>(message.size())));
  if (!args) {  // a message that is not UTF-8
    PyErr_Clear();
    args = Owned(Py_BuildValue("(y#)", message.data(), static_cast<Py_ssize_t>(message.size())));
  }
  Owned kwargs(Py_BuildValue(
      "{s:s#,s:z#}", "code", code.data(), static_cast<Py_ssize_t>(code.size()), "name",
      tensor.empty() ? nullptr : tensor.data(), static_cast<Py_ssize_t>(tensor.size())));
  if (!args || !kwargs) return nullptr;
  return PyObject_Call(type, args.get(), kwargs.get());
}

PyObject* SetError(const absl::Status& status, std::string_view tensor) {
  Owned error(MakeError(status, tensor));
  if (error) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  return nullptr;
}

PyObject* SetPartialError(const std::string& message, PyObject* results) {
  Owned module(PyImport_ImportModule("penstock.errors"));
  if (!module) return nullptr;
  Owned type(PyObject_GetAttrString(module.get(), "PartialError"));
  if (!type) return nullptr;
  Owned error(PyObject_CallFunction(type.get(), "s#O", message.data(),
                                    static_cast<Py_ssize_t>(message.size()), results));
  if (error) PyErr_SetObject(type.get(), error.get());
  return nullptr;
}

PyObject* SetTypeError(const std::string& message) {
  PyErr_SetString(PyExc_TypeError, message.c_str());
  return nullptr;
}

void ThrowPythonError() { throw nanobind::python_error(); }

void ThrowStatus(const absl::Status& status, std::string_view tensor) {
  SetError(status, tensor);
  ThrowPythonError();
}

std::string TypeName(PyObject* object) { return Py_TYPE(object)->tp_name; }

}  // namespace penstock::python
