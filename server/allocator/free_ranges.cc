#include "server/allocator/free_ranges.h"

#include <iterator>

#include "server/allocator/size_class.h"

namespace penstock {
namespace {

bool Fits(const std::pair<uint64_t, uint64_t>& range, uint64_t bytes, uint64_t alignment) {
  return AlignUp(range.second, alignment) + bytes <= range.second + range.first;
}

// The lowest place in the range, or its upper end if only that has the preferred alignment: either
// way one piece is left (besides the gap that `alignment` itself costs).
uint64_t Place(const std::pair<uint64_t, uint64_t>& range, uint64_t bytes, uint64_t alignment,
               uint64_t preferred) {
  const uint64_t low = AlignUp(range.second, alignment);
  const uint64_t high = range.second + range.first - bytes;
  return low % preferred != 0 && high % preferred == 0 ? high : low;
}

}  // namespace

FreeRanges::FreeRanges(uint64_t size) {
  if (size != 0) Insert(0, size);
}

FreeRanges::BySize::iterator FreeRanges::FindFit(uint64_t bytes, uint64_t alignment) {
  const uint64_t always_fits = bytes + alignment - kRangeGranuleBytes;
  constexpr int kTries = 16;  // then a range that surely fits is better than a longer search
  auto it = by_size_.lower_bound({bytes, 0});
  for (int i = 0; i < kTries && it != by_size_.end() && it->first < always_fits; ++i, ++it) {
    if (Fits(*it, bytes, alignment)) return it;
  }
  if (const auto sure = by_size_.lower_bound({always_fits, 0}); sure != by_size_.end()) return sure;
  for (; it != by_size_.end(); ++it) {
    if (Fits(*it, bytes, alignment)) return it;
  }
  return it;
}

std::optional<uint64_t> FreeRanges::Take(uint64_t bytes, uint64_t alignment,
                                         uint64_t preferred_alignment) {
  const auto fit = FindFit(bytes, alignment);
  if (fit == by_size_.end()) return std::nullopt;
  const std::pair<uint64_t, uint64_t> range = *fit;
  const uint64_t offset = Place(range, bytes, alignment, preferred_alignment);
  CutOut(range.second, range.first, offset, bytes);
  return offset;
}

bool FreeRanges::TakeAt(uint64_t offset, uint64_t bytes) {
  auto it = by_offset_.upper_bound(offset);
  if (it == by_offset_.begin()) return false;
  --it;
  const auto [range_offset, range_bytes] = *it;
  if (offset + bytes > range_offset + range_bytes) return false;
  CutOut(range_offset, range_bytes, offset, bytes);
  return true;
}

bool FreeRanges::Give(uint64_t offset, uint64_t bytes) {
  const auto next = by_offset_.lower_bound(offset);
  const bool has_next = next != by_offset_.end(), has_previous = next != by_offset_.begin();
  std::pair<uint64_t, uint64_t> before, after;  // (offset, bytes)
  if (has_next) after = *next;
  if (has_previous) before = *std::prev(next);
  if (has_next && offset + bytes > after.first) return false;
  if (has_previous && before.first + before.second > offset) return false;
  uint64_t begin = offset, end = offset + bytes;
  if (has_next && end == after.first) {
    end += after.second;
    Erase(after.first, after.second);
  }
  if (has_previous && before.first + before.second == begin) {
    begin = before.first;
    Erase(before.first, before.second);
  }
  Insert(begin, end - begin);
  return true;
}

void FreeRanges::CutOut(uint64_t range_offset, uint64_t range_bytes, uint64_t offset,
                        uint64_t bytes) {
  Erase(range_offset, range_bytes);
  const uint64_t end = offset + bytes, range_end = range_offset + range_bytes;
  if (offset > range_offset) Insert(range_offset, offset - range_offset);
  if (end < range_end) Insert(end, range_end - end);
}

void FreeRanges::Insert(uint64_t offset, uint64_t bytes) {
  by_offset_.emplace(offset, bytes);
  by_size_.emplace(bytes, offset);
  total_bytes_ += bytes;
}

void FreeRanges::Erase(uint64_t offset, uint64_t bytes) {
  by_offset_.erase(offset);
  by_size_.erase({bytes, offset});
  total_bytes_ -= bytes;
}

}  // namespace penstock
