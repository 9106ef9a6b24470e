// Where the elements of an array lie: first element, shape, byte strides.
//
// The common currency of the exporters (NumPy, DLPack, buffer protocol) and of indexing.
//
// Threading:  a value.
// Ownership:  points at shape and strides of somebody else, who must outlive it.
// Errors:     none.
// Limits:     strides of f6_* are 0 and mean nothing.
#pragma once

#include <penstock/dtype.h>

#include <cstddef>
#include <cstdint>

namespace penstock::python {

struct Layout {
  const std::byte* data = nullptr;
  const int64_t* shape = nullptr;
  const int64_t* strides = nullptr;
  int32_t rank = 0;
  DType dtype = DType::kInvalid;

  int64_t elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    return count;
  }
  int64_t nbytes() const { return elements() * BitsPerElement(dtype) / 8; }

  bool c_contiguous() const { return Dense(rank - 1, -1); }
  bool f_contiguous() const { return Dense(0, 1); }

  bool has_negative_stride() const {
    for (int i = 0; i < rank; ++i) {
      if (strides[i] < 0) return true;
    }
    return false;
  }

 private:
  // Whether the strides grow without gaps when dimensions are walked from `first` by `step`.
  bool Dense(int first, int step) const {
    const auto item = static_cast<int64_t>(ItemSize(dtype));
    if (item == 0) return true;  // f6_*: whole tensors only
    if (elements() == 0) return true;
    int64_t want = item;
    for (int n = 0, i = first; n < rank; ++n, i += step) {
      if (shape[i] != 1 && strides[i] != want) return false;
      want *= shape[i];
    }
    return true;
  }
};

}  // namespace penstock::python
