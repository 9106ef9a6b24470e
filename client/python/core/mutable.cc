#include "client/python/core/mutable.h"

#include <utility>

#include "client/python/core/keeper.h"
#include "client/python/core/owned.h"
#include "client/python/core/raise.h"

namespace penstock::python {

namespace nb = nanobind;

namespace {
void DropShared(void* share) { delete static_cast<std::shared_ptr<const void>*>(share); }
}  // namespace

nb::object ArrayOver(const Layout& layout, ArrayAccess access, std::shared_ptr<const void> share) {
  nb::object array = nb::steal(NewArray(layout, access));
  if (!array.is_valid()) ThrowPythonError();
  PyObject* keeper = NewKeeper(new std::shared_ptr<const void>(std::move(share)), DropShared);
  if (keeper == nullptr || PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()), keeper) != 0) ThrowPythonError();
  return array;
}

void ThrowMutable(const absl::Status& status, std::string_view name) {
  Owned error(MakeError(status, name));
  Owned nothing(PyUnicode_FromString(""));
  if (error && nothing && PyObject_SetAttrString(error.get(), "hint", nothing.get()) == 0) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  }
  ThrowPythonError();
}

nb::object ShapeTuple(const Shape& shape) {
  nb::object tuple = nb::steal(PyTuple_New(shape.rank()));
  for (int i = 0; i < shape.rank(); ++i) PyTuple_SET_ITEM(tuple.ptr(), i, PyLong_FromLongLong(shape.dim(i)));
  return tuple;
}


}  // namespace penstock::python
