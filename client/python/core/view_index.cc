// view[...]: NumPy's basic indexing (integers, slices, "...") and penstock.Box, without a copy.
#include <string>

#include "client/python/core/owned.h"
#include "client/python/core/raise.h"
#include "client/python/core/view_object.h"
#include "penstock/box.h"
#include "proto/strcat.h"

namespace penstock::python {
namespace {

// The part that has been selected so far, dimension by dimension of the source.
struct Selection {
  const Layout& from;
  int64_t offset = 0;  // of the first element, in bytes
  int source = 0;  // dimensions of `from` that are done
  int rank = 0;    // dimensions of the result
  int64_t shape[kMaxRank];
  int64_t strides[kMaxRank];

  explicit Selection(const Layout& layout) : from(layout) {}

  void Keep(int64_t start, int64_t extent, int64_t step) {
    if (extent > 0) offset += start * from.strides[source];
    shape[rank] = extent;
    strides[rank++] = step * from.strides[source++];
  }
  void KeepWhole(int count) {
    for (int i = 0; i < count; ++i) Keep(0, from.shape[source], 1);
  }
};

bool AddInteger(Selection* selection, PyObject* index) {
  const Py_ssize_t given = PyNumber_AsSsize_t(index, PyExc_IndexError);
  if (given == -1 && PyErr_Occurred() != nullptr) return false;
  const int64_t extent = selection->from.shape[selection->source];
  const int64_t at = given < 0 ? given + extent : given;
  if (at < 0 || at >= extent) {
    PyErr_Format(PyExc_IndexError, "index %zd is out of bounds for dimension %d with size %lld",
                 given, selection->source, static_cast<long long>(extent));
    return false;
  }
  selection->offset += at * selection->from.strides[selection->source++];
  return true;
}

bool AddSlice(Selection* selection, PyObject* slice) {
  Py_ssize_t start = 0;
  Py_ssize_t stop = 0;
  Py_ssize_t step = 0;
  if (PySlice_Unpack(slice, &start, &stop, &step) != 0) return false;
  const Py_ssize_t extent =
      PySlice_AdjustIndices(selection->from.shape[selection->source], &start, &stop, step);
  selection->Keep(start, extent, step);
  return true;
}

bool AddItem(Selection* selection, PyObject* item) {
  if (PySlice_Check(item)) return AddSlice(selection, item);
  if (PyIndex_Check(item) != 0 && !PyBool_Check(item)) return AddInteger(selection, item);
  SetTypeError(
      StrCat("index: allowed are integers, slices, '...', tuples of them, and "
             "penstock.Box, not ",
             TypeName(item), "; other indexing works on view.numpy()"));
  return false;
}

bool AddTuple(Selection* selection, PyObject* items) {
  const auto count = static_cast<int>(PyTuple_GET_SIZE(items));
  int dimensions = 0;  // that the items speak of
  bool ellipsis = false;
  for (int i = 0; i < count; ++i) {
    if (PyTuple_GET_ITEM(items, i) != Py_Ellipsis) {
      ++dimensions;
    } else if (std::exchange(ellipsis, true)) {
      PyErr_SetString(PyExc_IndexError, "an index can have only one ellipsis ('...')");
      return false;
    }
  }
  const int rank = selection->from.rank;
  if (dimensions > rank) {
    PyErr_Format(PyExc_IndexError,
                 "too many indices: the view has %d dimensions, but %d were indexed", rank,
                 dimensions);
    return false;
  }
  for (int i = 0; i < count; ++i) {
    PyObject* item = PyTuple_GET_ITEM(items, i);
    if (item == Py_Ellipsis) {
      selection->KeepWhole(rank - dimensions);
    } else if (!AddItem(selection, item)) {
      return false;
    }
  }
  selection->KeepWhole(rank - selection->source);
  return true;
}

// box.offset or box.extent, `rank` non-negative integers.
bool BoxNumbers(PyObject* box, const char* field, int rank, Dims* out) {
  Owned attribute(PyObject_GetAttrString(box, field));
  Owned numbers(attribute ? PySequence_Tuple(attribute.get()) : nullptr);
  if (!numbers) return false;
  if (PyTuple_GET_SIZE(numbers.get()) != rank) {
    SetError(
        absl::InvalidArgumentError(StrCat("box.", field, ": has ", PyTuple_GET_SIZE(numbers.get()),
                                          " numbers, but the tensor has ", rank, " dimensions")));
    return false;
  }
  *out = Dims::Filled(rank, 0);
  for (int i = 0; i < rank; ++i) {
    const Py_ssize_t number =
        PyNumber_AsSsize_t(PyTuple_GET_ITEM(numbers.get(), i), PyExc_OverflowError);
    if (number == -1 && PyErr_Occurred() != nullptr) return false;
    (*out)[i] = number;
  }
  return true;
}

bool AddBox(Selection* selection, PyObject* object) {
  const Layout& from = selection->from;
  Box box;
  if (!BoxNumbers(object, "offset", from.rank, &box.offset) ||
      !BoxNumbers(object, "extent", from.rank, &box.extent)) {
    return false;
  }
  const Shape shape(absl::MakeConstSpan(from.shape, static_cast<size_t>(from.rank)));
  if (absl::Status status = ValidateBox(box, shape); !status.ok()) {
    SetError(status);
    return false;
  }
  for (int i = 0; i < from.rank; ++i) selection->Keep(box.offset[i], box.extent[i], 1);
  return true;
}

bool IsBox(PyObject* index) {
  return PyIndex_Check(index) == 0 && !PySlice_Check(index) && index != Py_Ellipsis &&
         PyObject_HasAttrString(index, "offset") != 0 &&
         PyObject_HasAttrString(index, "extent") != 0;
}

bool Select(Selection* selection, PyObject* index) {
  if (ItemSize(selection->from.dtype) == 0) {
    SetTypeError(StrCat("elements of ", DTypeName(selection->from.dtype),
                        " are not whole bytes and cannot be indexed"));
    return false;
  }
  if (PyTuple_Check(index)) return AddTuple(selection, index);
  if (IsBox(index)) return AddBox(selection, index);
  Owned single(PyTuple_Pack(1, index));
  return single && AddTuple(selection, single.get());
}

}  // namespace

PyObject* ViewSubscript(PyObject* self, PyObject* index) {
  ViewObject* view = LiveView(self);
  if (view == nullptr) return nullptr;
  Selection selection(view->layout);
  if (!Select(&selection, index)) return nullptr;
  return NewSubView(view, {view->layout.data + selection.offset, selection.shape,
                           selection.strides, selection.rank, view->layout.dtype});
}

bool IndexedPart(const Layout& whole, PyObject* index, Part* part) {
  Selection selection(whole);
  if (!Select(&selection, index)) return false;
  const auto rank = static_cast<size_t>(selection.rank);
  part->offset_bytes = static_cast<uint64_t>(selection.offset);
  part->shape = Shape(absl::MakeConstSpan(selection.shape, rank));
  part->strides.assign(selection.strides, selection.strides + rank);
  return true;
}

}  // namespace penstock::python
