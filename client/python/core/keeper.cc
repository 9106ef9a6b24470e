#include "client/python/core/keeper.h"

namespace penstock::python {
namespace {

struct Keeper {
  PyObject_HEAD void* what;
  DropFunction drop;
};

PyTypeObject* keeper_type = nullptr;

void Dealloc(PyObject* self) {
  auto* keeper = reinterpret_cast<Keeper*>(self);
  if (keeper->drop != nullptr) keeper->drop(keeper->what);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyType_Slot slots[] = {
    {Py_tp_dealloc, reinterpret_cast<void*>(Dealloc)},
    {Py_tp_doc, const_cast<char*>("Keeps the memory of an array alive; see array.base.")},
    {0, nullptr},
};

PyType_Spec spec = {
    "penstock._core.Keeper", sizeof(Keeper), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};

}  // namespace

PyObject* NewKeeper(void* what, DropFunction drop) {
  Keeper* keeper = PyObject_New(Keeper, keeper_type);
  if (keeper == nullptr) {
    drop(what);
    return nullptr;
  }
  keeper->what = what;
  keeper->drop = drop;
  return reinterpret_cast<PyObject*>(keeper);
}

bool AddKeeperType(PyObject* module) {
  keeper_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  return keeper_type != nullptr && PyModule_AddType(module, keeper_type) == 0;
}

}  // namespace penstock::python
