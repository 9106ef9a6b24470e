// A box: a part of a tensor, as offset and extent per dimension.
//
//   absl::StatusOr<BoxSelection> part = ParseBox("0:10, :, -1", shape);
//   ForEachRun(shape, part->box, 4, [&](uint64_t offset, uint64_t length) { ... });
//
// Shards are boxes, and readers ask for boxes. Text is read as NumPy reads an index.
//
// Threading:  a value; as any plain struct.
// Ownership:  holds its numbers itself; no allocation.
// Errors:     INVALID_ARGUMENT that names the dimension and what is allowed.
// Limits:     no steps: a box is dense in every dimension. Boxes of 6-bit elements cannot be turned
// into bytes.
#ifndef PENSTOCK_BOX_H_
#define PENSTOCK_BOX_H_

#include <penstock/dims.h>
#include <penstock/shape.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace penstock {

struct Box {
  Dims offset;
  Dims extent;

  static Box Whole(const Shape& shape);

  int rank() const { return offset.rank(); }
  bool empty() const;
  bool IsWhole(const Shape& shape) const;

  // Whether the box's elements lie without gaps inside a C-ordered tensor of `shape`. The box is
  // valid in it.
  bool IsContiguousIn(const Shape& shape) const;

  // The part that both have; nothing if that is empty or if the ranks differ.
  std::optional<Box> Intersect(const Box& other) const;

  // The extents. The box is valid in some shape.
  Shape shape() const { return Shape(extent.span()); }

  // "0:10, 2:5"
  std::string ToString() const;

  friend bool operator==(const Box& a, const Box& b) {
    return a.offset == b.offset && a.extent == b.extent;
  }
};

// OK if the ranks agree and the box lies inside the shape. Extents of 0 are legal.
absl::Status ValidateBox(const Box& box, const Shape& shape);

// What an index text selects: a box of the tensor's rank, and which dimensions an integer index
// drops.
struct BoxSelection {
  Box box;
  uint32_t dropped = 0;  // bit i: dimension i is indexed by an integer

  bool drops(int i) const { return (dropped >> i & 1u) != 0; }
  // The shape that the reader sees: the extents without the dropped dimensions.
  Shape result_shape() const;
};

// Reads "0:10,:,3" with NumPy's meaning: slices are cut to the tensor, negative numbers count from
// the end,
// "..." fills up, missing dimensions are whole. Integers out of range and steps other than 1 are
// errors.
absl::StatusOr<BoxSelection> ParseBox(std::string_view text, const Shape& shape);

// Calls `visit(byte_offset, byte_length)` for each contiguous run of the box, in C order; full
// inner dimensions are merged, so that a contiguous box is one run. Offsets count from the tensor's
// first byte. The box is valid in `shape`; `item_bytes` > 0.
void ForEachRun(const Shape& shape, const Box& box, size_t item_bytes,
                absl::FunctionRef<void(uint64_t byte_offset, uint64_t byte_length)> visit);

}  // namespace penstock

#endif  // PENSTOCK_BOX_H_
