#include "client/shards/boxes.h"

#include <utility>

#include "proto/strcat.h"

namespace penstock::client {

namespace {

// Adds what is in `whole` and not in `hole`.
void Subtract(Box whole, const Box& hole, std::vector<Box>* out) {
  const std::optional<Box> common = whole.Intersect(hole);
  if (!common) return out->push_back(whole);
  for (int i = 0; i < whole.rank(); ++i) {
    const int64_t end = whole.offset[i] + whole.extent[i];
    const int64_t common_end = common->offset[i] + common->extent[i];
    Box piece = whole;
    piece.extent[i] = common->offset[i] - whole.offset[i];
    if (piece.extent[i] > 0) out->push_back(piece);
    piece.offset[i] = common_end;
    piece.extent[i] = end - common_end;
    if (piece.extent[i] > 0) out->push_back(piece);
    whole.offset[i] = common->offset[i];
    whole.extent[i] = common->extent[i];
  }
}

}  // namespace

absl::Status CheckApart(const Box& a, const Box& b) {
  if (!a.Intersect(b)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("shards [", a.ToString(), "] and [", b.ToString(), "] overlap"));
}

std::vector<Box> Missing(const Shape& shape, absl::Span<const Box> boxes) {
  std::vector<Box> left;
  if (shape.num_elements() > 0) left.push_back(Box::Whole(shape));
  for (const Box& box : boxes) {
    std::vector<Box> next;
    for (const Box& part : left) Subtract(part, box, &next);
    left = std::move(next);
  }
  return left;
}

}  // namespace penstock::client
