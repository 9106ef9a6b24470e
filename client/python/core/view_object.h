// penstock.TensorView: the Python type over a pinned tensor.
//
// Written against CPython's C API and not through nanobind, because `store.get(name).numpy()` has
// to stay within a microsecond, and because it needs the buffer protocol.
//
// Threading:  with the GIL. The lease inside goes on without it.
// Ownership:  an object holds one share of its lease until release() or its end; arrays, capsules
//             and buffers made from it hold shares of their own.
// Errors:     a released view raises InvalidArgumentError (a ValueError) on use.
// Limits:     sub-views keep shape and strides in an allocation of their own.
#pragma once

#include <string_view>

#include "client/python/core/layout.h"
#include "client/python/core/lease.h"
#include "client/python/core/numpy_api.h"

namespace penstock::python {

struct ViewObject {
  PyObject_HEAD Lease* lease;  // null once released
  Layout layout;               // points into the lease, or at `geometry`
  int64_t* geometry;           // sub-views: rank numbers of shape, then of strides
};

// New reference; null with a Python error set.
PyObject* NewView(TensorView&& view);
// The view of a name that Client::GetWarm finds; null without an error when it does not.
PyObject* NewWarmView(Client* client, std::string_view name);
// A part of `parent` on the same pin. Copies shape and strides.
PyObject* NewSubView(ViewObject* parent, const Layout& layout);

bool IsView(PyObject* object);

// The view if it may still be used, else null with InvalidArgumentError set.
ViewObject* LiveView(PyObject* object);

// The exporters; new references, null with a Python error set.
PyObject* ViewNumpy(PyObject* self, PyObject* unused);                   // view_numpy.cc
PyObject* ViewArray(PyObject* self, PyObject* args, PyObject* kwargs);   // view_numpy.cc
PyObject* ViewArrayInterface(PyObject* self, void* unused);              // view_numpy.cc
PyObject* ViewBytes(PyObject* self, PyObject* unused);                   // view_numpy.cc
PyObject* ViewDLPack(PyObject* self, PyObject* args, PyObject* kwargs);  // view_dlpack.cc
PyObject* ViewDLPackDevice(PyObject* self, PyObject* unused);            // view_dlpack.cc
PyObject* ViewTorch(PyObject* self, PyObject* unused);                   // view_dlpack.cc
PyObject* ViewSubscript(PyObject* self, PyObject* index);                // view_index.cc
int ViewGetBuffer(PyObject* self, Py_buffer* buffer, int flags);         // view_buffer.cc
void ViewReleaseBuffer(PyObject* self, Py_buffer* buffer);               // view_buffer.cc

// What `index` selects of a tensor, of which `whole` tells all but where it lies; false with a Python error set.
bool IndexedPart(const Layout& whole, PyObject* index, Part* part);      // view_index.cc

bool AddViewType(PyObject* module);

}  // namespace penstock::python
