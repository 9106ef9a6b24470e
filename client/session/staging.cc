#include "client/session/staging.h"

namespace penstock::client {

StagingArea::StagingArea(uint32_t unit_count) : range_(unit_count) {
  if (unit_count > 0) range_[0] = unit_count;
}

std::optional<uint32_t> StagingArea::Allocate(uint32_t units) {
  const auto end = static_cast<uint32_t>(range_.size());
  if (units == 0 || units > end - used_units_) return std::nullopt;
  bool first_free = true;
  uint32_t at = lowest_free_;
  while (at < end) {
    if ((range_[at] & kBusy) != 0) {
      at += range_[at] & ~kBusy;
      continue;
    }
    // Free neighbours above are merged when they are met: Free need not look around.
    uint32_t length = range_[at];
    while (length < units && at + length < end && (range_[at + length] & kBusy) == 0) {
      length += range_[at + length];
    }
    range_[at] = length;
    if (first_free) lowest_free_ = at;
    if (length >= units) {
      range_[at] = units | kBusy;
      if (length > units) range_[at + units] = length - units;
      if (first_free) lowest_free_ = at + units;
      used_units_ += units;
      return at;
    }
    first_free = false;
    at += length;
  }
  return std::nullopt;
}

void StagingArea::Free(uint32_t position) {
  range_[position] &= ~kBusy;
  used_units_ -= range_[position];
  if (position < lowest_free_) lowest_free_ = position;
}

}  // namespace penstock::client
