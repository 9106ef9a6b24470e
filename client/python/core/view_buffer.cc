// Buffer protocol of TensorView (PEP 3118): read-only, no copy.
#include <string>

#include "client/python/core/view_object.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

bool Wants(int flags, int what) { return (flags & what) == what; }

int Refuse(const std::string& why) {
  PyErr_SetString(PyExc_BufferError, why.c_str());
  return -1;
}

}  // namespace

int ViewGetBuffer(PyObject* self, Py_buffer* buffer, int flags) {
  buffer->obj = nullptr;
  ViewObject* view = LiveView(self);
  if (view == nullptr) return -1;
  const Layout& layout = view->layout;
  const DTypeTraits& traits = TraitsOf(layout.dtype);
  if (Wants(flags, PyBUF_WRITABLE)) return Refuse("tensor memory is read-only: copy it first");
  if (Wants(flags, PyBUF_FORMAT) && traits.pep3118.empty()) {
    return Refuse(StrCat("the buffer protocol has no format for elements of ", traits.name,
                         "; use view.numpy(), view.torch() or view.bytes()"));
  }
  const bool c_order = layout.c_contiguous();
  if ((Wants(flags, PyBUF_C_CONTIGUOUS) && !c_order) ||
      (Wants(flags, PyBUF_F_CONTIGUOUS) && !layout.f_contiguous()) ||
      (Wants(flags, PyBUF_ANY_CONTIGUOUS) && !c_order && !layout.f_contiguous()) ||
      (!Wants(flags, PyBUF_STRIDES) && !c_order)) {
    return Refuse("the view is strided and was asked for contiguous memory: copy it first");
  }
  buffer->buf = const_cast<std::byte*>(layout.data);
  buffer->len = layout.nbytes();
  buffer->itemsize = traits.item_bytes == 0 ? 1 : traits.item_bytes;
  buffer->readonly = 1;
  buffer->format = Wants(flags, PyBUF_FORMAT) ? const_cast<char*>(traits.pep3118.data()) : nullptr;
  buffer->ndim = Wants(flags, PyBUF_ND) ? layout.rank : 1;
  // CPython's own arrays are Py_ssize_t, which is int64_t on every platform that Penstock runs on.
  static_assert(sizeof(Py_ssize_t) == sizeof(int64_t));
  buffer->shape = Wants(flags, PyBUF_ND)
                      ? reinterpret_cast<Py_ssize_t*>(const_cast<int64_t*>(layout.shape))
                      : nullptr;
  buffer->strides = Wants(flags, PyBUF_STRIDES)
                        ? reinterpret_cast<Py_ssize_t*>(const_cast<int64_t*>(layout.strides))
                        : nullptr;
  buffer->suboffsets = nullptr;
  buffer->internal = view->lease->Share();  // the bytes outlive a release() of the view
  Py_INCREF(self);                          // shape and strides of a sub-view lie in the object
  buffer->obj = self;
  return 0;
}

void ViewReleaseBuffer(PyObject*, Py_buffer* buffer) {
  static_cast<Lease*>(buffer->internal)->Drop();
}

}  // namespace penstock::python
