#include <penstock/shape.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "proto/strcat.h"

namespace penstock {
namespace {

std::string Text(absl::Span<const int64_t> dims) {
  return StrCat("(", Join(dims, ", "), dims.size() == 1 ? ",)" : ")");
}

absl::Status Check(absl::Span<const int64_t> dims) {
  if (dims.size() > static_cast<size_t>(kMaxRank)) {
    return absl::InvalidArgumentError(
        StrCat("shape: rank ", dims.size(), " is above the limit of ", kMaxRank));
  }
  int64_t product = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < 0) {
      return absl::InvalidArgumentError(StrCat("shape: dimension ", i, " of ", Text(dims), " is ",
                                               dims[i], "; it must be 0 or more"));
    }
    // Zeros are left out, so that strides fit too.
    if (__builtin_mul_overflow(product, std::max<int64_t>(dims[i], 1), &product) ||
        product > kMaxElements) {
      return absl::InvalidArgumentError(StrCat("shape: ", Text(dims), " has more than ",
                                               kMaxElements, " elements (dimensions of 0 aside)"));
    }
  }
  return absl::OkStatus();
}

Dims CheckedOrAbort(absl::Span<const int64_t> dims) {
  if (const absl::Status status = Check(dims); !status.ok()) {
    std::fprintf(stderr, "penstock: %s\n", std::string(status.message()).c_str());
    std::abort();
  }
  return Dims(dims);
}

}  // namespace

Shape::Shape(std::initializer_list<int64_t> dims)
    : Shape(absl::Span<const int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(absl::Span<const int64_t> dims) : dims_(CheckedOrAbort(dims)) {}

absl::StatusOr<Shape> Shape::Create(absl::Span<const int64_t> dims) {
  if (absl::Status status = Check(dims); !status.ok()) return status;
  Shape shape;
  shape.dims_ = Dims(dims);
  return shape;
}

int64_t Shape::num_elements() const {
  int64_t product = 1;
  for (const int64_t dim : dims_) product *= dim;
  return product;
}

std::string Shape::ToString() const { return Text(dims()); }

absl::StatusOr<uint64_t> ByteSize(DType dtype, const Shape& shape) {
  if (!IsValid(dtype)) {
    return absl::InvalidArgumentError(StrCat("dtype: ", static_cast<int>(dtype),
                                             " is not a dtype; allowed: 1..", int{kMaxDType}));
  }
  // num_elements <= kMaxElements, so only the count of bits needs more than 64 bits.
  const auto elements = static_cast<uint64_t>(shape.num_elements());
  if (const size_t item_bytes = ItemSize(dtype); item_bytes != 0) return elements * item_bytes;
  const auto bits =
      static_cast<unsigned __int128>(elements) * static_cast<unsigned>(BitsPerElement(dtype));
  if (bits % 8 != 0) {
    return absl::InvalidArgumentError(StrCat("shape: ", shape.ToString(), " of ", DTypeName(dtype),
                                             " does not fill whole bytes: ", elements,
                                             " elements of ", BitsPerElement(dtype), " bits"));
  }
  return static_cast<uint64_t>(bits / 8);
}

Strides ContiguousStrides(DType dtype, const Shape& shape) {
  Strides strides = Dims::Filled(shape.rank(), 0);
  auto step = static_cast<int64_t>(ItemSize(dtype));
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= std::max<int64_t>(shape.dim(i), 1);
  }
  return strides;
}

}  // namespace penstock
