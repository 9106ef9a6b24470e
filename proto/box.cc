#include <penstock/box.h>

#include <algorithm>

#include "proto/strcat.h"

namespace penstock {
namespace {

// The first dimension from which on the box covers the whole shape.
int FirstFullDim(const Shape& shape, const Box& box) {
  int dim = shape.rank();
  while (dim > 0 && box.extent[dim - 1] == shape.dim(dim - 1)) --dim;
  return dim;
}

}  // namespace

Box Box::Whole(const Shape& shape) {
  return Box{.offset = Dims::Filled(shape.rank(), 0), .extent = Dims(shape.dims())};
}

bool Box::empty() const {
  return std::any_of(extent.begin(), extent.end(), [](int64_t n) { return n == 0; });
}

bool Box::IsWhole(const Shape& shape) const { return *this == Whole(shape); }

bool Box::IsContiguousIn(const Shape& shape) const {
  if (empty()) return true;
  // Full dimensions inside, then one that is cut anyhow, then single positions.
  const int full = FirstFullDim(shape, *this);
  for (int i = 0; i < full - 1; ++i) {
    if (extent[i] != 1) return false;
  }
  return true;
}

std::optional<Box> Box::Intersect(const Box& other) const {
  if (rank() != other.rank()) return std::nullopt;
  Box result = *this;
  for (int i = 0; i < rank(); ++i) {
    const int64_t begin = std::max(offset[i], other.offset[i]);
    const int64_t end = std::min(offset[i] + extent[i], other.offset[i] + other.extent[i]);
    if (begin >= end) return std::nullopt;
    result.offset[i] = begin;
    result.extent[i] = end - begin;
  }
  return result;
}

std::string Box::ToString() const {
  std::string text;
  for (int i = 0; i < rank(); ++i) {
    StrAppend(&text, i == 0 ? "" : ", ", offset[i], ":", offset[i] + extent[i]);
  }
  return text;
}

absl::Status ValidateBox(const Box& box, const Shape& shape) {
  if (box.offset.rank() != shape.rank() || box.extent.rank() != shape.rank()) {
    return absl::InvalidArgumentError(StrCat("box: offset of rank ", box.offset.rank(),
                                             " and extent of rank ", box.extent.rank(),
                                             " for a tensor of rank ", shape.rank()));
  }
  for (int i = 0; i < shape.rank(); ++i) {
    const int64_t offset = box.offset[i];
    const int64_t extent = box.extent[i];
    if (offset < 0 || extent < 0 || offset > shape.dim(i) || extent > shape.dim(i) - offset) {
      return absl::InvalidArgumentError(StrCat("box: dimension ", i, " has offset ", offset,
                                               " and extent ", extent, "; the tensor's shape is ",
                                               shape.ToString()));
    }
  }
  return absl::OkStatus();
}

Shape BoxSelection::result_shape() const {
  int64_t kept[kMaxRank];
  size_t count = 0;
  for (int i = 0; i < box.rank(); ++i) {
    if (!drops(i)) kept[count++] = box.extent[i];
  }
  return Shape(absl::Span<const int64_t>(kept, count));
}

void ForEachRun(const Shape& shape, const Box& box, size_t item_bytes,
                absl::FunctionRef<void(uint64_t byte_offset, uint64_t byte_length)> visit) {
  if (box.empty()) return;
  int64_t step[kMaxRank];  // bytes from one position to the next, per dimension
  auto stride = static_cast<int64_t>(item_bytes);
  for (int i = shape.rank() - 1; i >= 0; --i) {
    step[i] = stride;
    stride *= shape.dim(i);
  }
  // A run is the innermost cut dimension with all full ones inside it; the dimensions outside are
  // counted.
  const int outer_rank = std::max(FirstFullDim(shape, box) - 1, 0);
  uint64_t length = item_bytes;
  for (int i = outer_rank; i < shape.rank(); ++i) length *= static_cast<uint64_t>(box.extent[i]);
  int64_t start = 0;
  for (int i = 0; i < shape.rank(); ++i) start += box.offset[i] * step[i];

  int64_t position[kMaxRank] = {};
  for (;;) {
    visit(static_cast<uint64_t>(start), length);
    int dim = outer_rank - 1;
    for (; dim >= 0; --dim) {
      start += step[dim];
      if (++position[dim] < box.extent[dim]) break;
      start -= box.extent[dim] * step[dim];
      position[dim] = 0;
    }
    if (dim < 0) return;
  }
}

}  // namespace penstock
