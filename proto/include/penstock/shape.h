// The shape of a tensor, and the bytes that it takes.
//
//   absl::StatusOr<Shape> shape = Shape::Create(dims_from_outside);
//   absl::StatusOr<uint64_t> bytes = ByteSize(DType::kF32, *shape);
//
// Every Shape that exists is legal: rank 0..16, no negative dimension, and small enough that
// counts, byte sizes and strides of every dtype fit in int64_t. A dimension of 0 is legal.
//
// Threading:  a value; as any plain struct.
// Ownership:  holds its numbers itself; no allocation.
// Errors:     Create: INVALID_ARGUMENT that names the dimension. The constructors are for shapes
// known to be
//             legal and abort otherwise.
// Limits:     the product of the dimensions other than 0 is at most kMaxElements.
#ifndef PENSTOCK_SHAPE_H_
#define PENSTOCK_SHAPE_H_

#include <penstock/dims.h>
#include <penstock/dtype.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

// Times 16 bytes, the largest element, it still fits in int64_t.
inline constexpr int64_t kMaxElements = INT64_MAX / 16;

// Bytes from one element to the next, per dimension.
using Strides = Dims;

class Shape {
 public:
  // Rank 0: one element.
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(absl::Span<const int64_t> dims);

  static absl::StatusOr<Shape> Create(absl::Span<const int64_t> dims);

  // Takes `rank` dimensions that were checked when the tensor was made: for the path of a get, where
  // checking them again would be most of the cost.
  void AssignChecked(const int64_t* dims, int rank) { dims_.Assign(dims, rank); }

  int rank() const { return dims_.rank(); }
  // `i` is in [0, rank).
  int64_t dim(int i) const { return dims_[i]; }
  absl::Span<const int64_t> dims() const { return dims_.span(); }
  int64_t num_elements() const;

  // As Python writes it: "()", "(3,)", "(2, 3)".
  std::string ToString() const;

  friend bool operator==(const Shape& a, const Shape& b) { return a.dims_ == b.dims_; }

 private:
  Dims dims_;
};

// The bytes of a tensor in C order without gaps. INVALID_ARGUMENT when the dtype is not valid or
// when 6-bit elements do not fill whole bytes.
absl::StatusOr<uint64_t> ByteSize(DType dtype, const Shape& shape);

// Strides in C order without gaps, counted as if dimensions of 0 were 1 (as NumPy does). All 0 for
// f6_*, whose elements have no address.
Strides ContiguousStrides(DType dtype, const Shape& shape);

}  // namespace penstock

#endif  // PENSTOCK_SHAPE_H_
