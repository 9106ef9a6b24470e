// TensorView for DLPack (array API 2025.12) and torch.
#include "client/python/core/dlpack.h"
#include "client/python/core/dlpack_export.h"
#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "client/python/core/view_object.h"

namespace penstock::python {
namespace {

void DropShare(void* lease) { static_cast<Lease*>(lease)->Drop(); }

PyObject* Refuse(const char* why) {
  PyErr_SetString(PyExc_BufferError, why);
  return nullptr;
}

// A tuple of two integers, or None (then `fallback` is kept). False with an error set.
bool ParsePair(PyObject* pair, const char* field, long (*out)[2]) {
  if (pair == Py_None) return true;
  if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
    PyErr_Format(PyExc_TypeError, "__dlpack__: %s must be a tuple of two integers, not %R", field,
                 pair);
    return false;
  }
  for (int i = 0; i < 2; ++i) {
    PyObject* number = PyNumber_Index(PyTuple_GET_ITEM(pair, i));
    if (number == nullptr) return false;
    (*out)[i] = PyLong_AsLong(number);
    Py_DECREF(number);
    if ((*out)[i] == -1 && PyErr_Occurred() != nullptr) return false;
  }
  return true;
}

// Whether torch can have this memory as it lies: it knows no negative strides, and small blocks
// share pages with others, so that CopyOnWriteData would refuse.
bool MapsForTorch(const ViewObject* view) {
  constexpr uint64_t kSurelyShared = uint64_t{32} << 10;
  return view->lease->view().nbytes() >= kSurelyShared && view->layout.elements() > 0 &&
         !view->layout.has_negative_stride();
}

// A capsule over private pages, or a copy where those cannot be had.
PyObject* PrivateCapsule(ViewObject* view) {
  if (!MapsForTorch(view)) return MakeCopyCapsule(view->layout, false);
  Layout layout = view->layout;
  Lease* lease = view->lease->Share();  // another thread may release the view meanwhile
  absl::StatusOr<std::byte*> memory = absl::UnknownError("");
  {
    WithoutGil without_gil;  // the first call for a segment asks the node for it
    memory = lease->CopyOnWrite();
  }
  if (memory.ok()) {
    layout.data = *memory + (layout.data - lease->view().data());
    return MakeCapsule(layout, lease, DropShare, {});
  }
  PyObject* capsule = absl::IsFailedPrecondition(memory.status())
                          ? MakeCopyCapsule(layout, false)
                          : SetError(memory.status(), lease->view().name());
  lease->Drop();
  return capsule;
}

}  // namespace

PyObject* ViewDLPack(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* keywords[] = {"stream", "max_version", "dl_device", "copy", nullptr};
  PyObject* stream = Py_None;
  PyObject* max_version = Py_None;
  PyObject* dl_device = Py_None;
  PyObject* copy = Py_None;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOO:__dlpack__", const_cast<char**>(keywords),
                                   &stream, &max_version, &dl_device, &copy)) {
    return nullptr;
  }
  ViewObject* view = LiveView(self);
  if (view == nullptr) return nullptr;
  if (stream != Py_None) return Refuse("__dlpack__: stream must be None: the tensor is on the CPU");
  long device[2] = {kDLCPU, 0};
  long version[2] = {0, 0};
  if (!ParsePair(dl_device, "dl_device", &device)) return nullptr;
  if (!ParsePair(max_version, "max_version", &version)) return nullptr;
  if (device[0] != kDLCPU || device[1] != 0) {
    return Refuse("__dlpack__: dl_device must be (1, 0): the tensor is on the CPU");
  }
  const bool versioned = version[0] >= 1;
  const int copies = copy == Py_None ? 0 : PyObject_IsTrue(copy);
  if (copies < 0) return nullptr;
  if (copies > 0) return MakeCopyCapsule(view->layout, versioned);
  return MakeCapsule(view->layout, view->lease->Share(), DropShare, {.versioned = versioned});
}

PyObject* ViewDLPackDevice(PyObject* self, PyObject*) {
  return LiveView(self) == nullptr ? nullptr : Py_BuildValue("(ii)", kDLCPU, 0);
}

PyObject* ViewTorch(PyObject* self, PyObject*) {
  ViewObject* view = LiveView(self);
  if (view == nullptr) return nullptr;
  return TorchFromCapsule(PrivateCapsule(view));
}

}  // namespace penstock::python
