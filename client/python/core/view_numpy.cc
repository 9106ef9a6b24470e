// TensorView for NumPy: numpy(), __array__, __array_interface__, and bytes().
#include <string>

#include "client/python/core/arrays.h"
#include "client/python/core/keeper.h"
#include "client/python/core/numpy_dtypes.h"
#include "client/python/core/owned.h"
#include "client/python/core/view_object.h"

namespace penstock::python {
namespace {

void DropShare(void* lease) { static_cast<Lease*>(lease)->Drop(); }

}  // namespace

PyObject* ViewNumpy(PyObject* self, PyObject*) {
  ViewObject* view = LiveView(self);
  if (view == nullptr) return nullptr;
  PyObject* array = NewArray(view->layout, ArrayAccess::kReadOnly);
  if (array == nullptr) return nullptr;
  PyObject* keeper = NewKeeper(view->lease->Share(), DropShare);
  if (keeper == nullptr ||
      PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array), keeper) != 0) {
    Py_DECREF(array);
    return nullptr;
  }
  return array;
}

PyObject* ViewArray(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* keywords[] = {"dtype", "copy", nullptr};
  PyObject* dtype = Py_None;
  PyObject* copy = Py_None;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:__array__", const_cast<char**>(keywords),
                                   &dtype, &copy)) {
    return nullptr;
  }
  Owned array(ViewNumpy(self, nullptr));
  if (!array) return nullptr;
  if (dtype == Py_None && copy != Py_True) return array.release();
  PyArray_Descr* wanted = nullptr;
  if (dtype != Py_None && PyArray_DescrConverter(dtype, &wanted) != NPY_SUCCEED) return nullptr;
  auto* source = reinterpret_cast<PyArrayObject*>(array.get());
  if (wanted == nullptr) return PyArray_NewCopy(source, NPY_KEEPORDER);
  const bool same = PyArray_EquivTypes(wanted, PyArray_DESCR(source)) != 0;
  if (!same && copy == Py_False) {
    Py_DECREF(wanted);
    PyErr_SetString(PyExc_ValueError, "another dtype needs a copy, and copy=False was given");
    return nullptr;
  }
  const int flags = NPY_ARRAY_FORCECAST | (copy == Py_True ? NPY_ARRAY_ENSURECOPY : 0);
  return PyArray_FromArray(source, wanted, flags);  // steals `wanted`
}

PyObject* ViewArrayInterface(PyObject* self, void*) {
  ViewObject* view = LiveView(self);
  if (view == nullptr) return nullptr;
  const DTypeTraits& traits = TraitsOf(view->layout.dtype);
  if (traits.typestr.empty() || traits.typestr[1] == 'V') {
    // So that NumPy goes on to __array__, which knows ml_dtypes' types.
    PyErr_Format(PyExc_AttributeError, "__array_interface__ has no type string for %s",
                 std::string(traits.name).c_str());
    return nullptr;
  }
  Owned shape(PyObject_GetAttrString(self, "shape"));
  Owned strides(PyObject_GetAttrString(self, "strides"));
  if (!shape || !strides) return nullptr;
  return Py_BuildValue("{s:i,s:O,s:s#,s:(NO),s:O}", "version", 3, "shape", shape.get(), "typestr",
                       traits.typestr.data(), static_cast<Py_ssize_t>(traits.typestr.size()),
                       "data", PyLong_FromVoidPtr(const_cast<std::byte*>(view->layout.data)),
                       Py_True, "strides", strides.get());
}

PyObject* ViewBytes(PyObject* self, PyObject*) {
  ViewObject* view = LiveView(self);
  if (view == nullptr) return nullptr;
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, view->layout.nbytes());
  if (bytes == nullptr) return nullptr;
  if (!CopyToDense(view->layout, PyBytes_AS_STRING(bytes))) {
    Py_DECREF(bytes);
    return nullptr;
  }
  return bytes;
}

}  // namespace penstock::python
