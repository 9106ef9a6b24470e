#include "client/part.h"

#include <utility>
#include <vector>

#include "proto/strcat.h"

namespace penstock::client {

absl::Status CheckPart(const Part& part, DType dtype, const Shape& shape) {
  if (ItemSize(dtype) == 0) {
    return absl::InvalidArgumentError(StrCat("part: elements of dtype ", DTypeName(dtype), " are not whole bytes; only whole tensors can be had"));
  }
  if (part.strides.size() != static_cast<size_t>(part.shape.rank())) {
    return absl::InvalidArgumentError(StrCat("part: has ", part.strides.size(), " strides for ", part.shape.rank(), " dimensions"));
  }
  if (part.shape.num_elements() == 0) return absl::OkStatus();
  // First and last byte; shapes and strides of tensors fit in 64 bits, those of a part may be anything.
  const auto item = static_cast<__int128>(ItemSize(dtype));
  __int128 first = part.offset_bytes, last = first + item;
  for (int i = 0; i < part.shape.rank(); ++i) {
    const __int128 reach = static_cast<__int128>(part.shape.dim(i) - 1) * part.strides[static_cast<size_t>(i)];
    (reach < 0 ? first : last) += reach;
  }
  const __int128 bytes = static_cast<__int128>(shape.num_elements()) * item;
  if (first >= 0 && last <= bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("part: reaches outside of a ", DTypeName(dtype), " tensor of shape ", shape.ToString()));
}

Part PartOf(const Box& box, DType dtype, const Shape& shape) {
  Part part{.shape = box.shape()};
  part.strides.resize(static_cast<size_t>(shape.rank()));
  auto stride = static_cast<int64_t>(ItemSize(dtype));
  for (int i = shape.rank() - 1; i >= 0; --i) {
    part.strides[static_cast<size_t>(i)] = stride;
    part.offset_bytes += static_cast<uint64_t>(box.offset[i] * stride);
    stride *= shape.dim(i);
  }
  return part;
}

absl::StatusOr<std::optional<Part>> PartOf(const GetOptions& options, DType dtype, const Shape& shape) {
  if (options.check) {
    if (absl::Status s = options.check(dtype, shape); !s.ok()) return s;
  }
  if (!options.part && !options.box) return std::nullopt;
  Part part;
  if (options.part) {
    absl::StatusOr<Part> chosen = options.part(dtype, shape);
    if (!chosen.ok()) return chosen.status();
    part = *std::move(chosen);
  } else {
    if (absl::Status s = ValidateBox(*options.box, shape); !s.ok()) return s;
    if (options.box->IsWhole(shape)) return std::nullopt;
    part = PartOf(*options.box, dtype, shape);
  }
  if (absl::Status s = CheckPart(part, dtype, shape); !s.ok()) return s;
  return part;
}

bool RunsOf(const Part& part, DType dtype, ByteRuns* runs) {
  runs->offset = runs->run_bytes = 0;
  runs->dims.clear();
  if (part.shape.num_elements() == 0) return true;
  runs->offset = part.offset_bytes;
  runs->run_bytes = ItemSize(dtype);
  std::vector<RunDim> dims;  // innermost first
  for (int i = part.shape.rank() - 1; i >= 0; --i) {
    const auto count = static_cast<uint64_t>(part.shape.dim(i));
    const int64_t stride = part.strides[static_cast<size_t>(i)];
    if (count == 1) continue;
    if (stride < 0) return false;
    const auto step = static_cast<uint64_t>(stride);
    if (dims.empty() && step == runs->run_bytes) {
      runs->run_bytes *= count;
    } else if (!dims.empty() && step == dims.back().stride_bytes * dims.back().count) {
      dims.back().count *= count;
    } else {
      dims.push_back({.count = count, .stride_bytes = step});
    }
  }
  runs->dims.assign(dims.rbegin(), dims.rend());
  return true;
}

}  // namespace penstock::client
