#include "client/session/staging.h"

namespace penstock::client {

StagingArea::StagingArea(uint32_t unit_count) : range_(unit_count) {
  if (unit_count > 0) range_[0] = unit_count;
}

std::optional<uint32_t> StagingArea::Allocate(uint32_t units) {
  if (units == 0 || units > range_.size() - used_units_) return std::nullopt;
  if (cursor_ >= kRotateUnits) cursor_ = 0;
  std::optional<uint32_t> at = Take(cursor_, units);
  if (!at) at = Take(0, units);
  return at;
}

std::optional<uint32_t> StagingArea::Take(uint32_t from, uint32_t units) {
  const auto end = static_cast<uint32_t>(range_.size());
  for (uint32_t at = from; at < end;) {
    uint32_t length = range_[at] & ~kBusy;
    if ((range_[at] & kBusy) != 0) {
      at += length;
      continue;
    }
    // Free neighbours above are merged when they are met: Free need not look around.
    while (length < units && at + length < end && (range_[at + length] & kBusy) == 0) {
      length += range_[at + length];
    }
    if (at < cursor_ && cursor_ < at + length) cursor_ = at;  // it stays at the start of a range
    range_[at] = length;
    if (length >= units) {
      range_[at] = units | kBusy;
      if (length > units) range_[at + units] = length - units;
      cursor_ = at + units;
      used_units_ += units;
      return at;
    }
    at += length;
  }
  return std::nullopt;
}

void StagingArea::Free(uint32_t position) {
  range_[position] &= ~kBusy;
  used_units_ -= range_[position];
}

}  // namespace penstock::client
