// FreeRanges: the free parts of an address range; best fit, neighbours joined again.
//
// Threading:  one thread at a time
// Ownership:  keeps offsets only
// Errors:     "does not fit" is an empty optional or false
// Limits:     sizes and offsets are multiples of 256 bytes. Take and Give cost two or three B-tree
//             operations; an aligned Take may look at every range of nearly the right size when
//             nothing larger is left
#ifndef PENSTOCK_SERVER_ALLOCATOR_FREE_RANGES_H_
#define PENSTOCK_SERVER_ALLOCATOR_FREE_RANGES_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"

namespace penstock {

class FreeRanges {
 public:
  explicit FreeRanges(uint64_t size);  // one free range [0, size)

  // Takes `bytes` at a multiple of `alignment` from the smallest range where they fit. A multiple
  // of `preferred_alignment` is used if that leaves no more pieces behind.
  std::optional<uint64_t> Take(uint64_t bytes, uint64_t alignment, uint64_t preferred_alignment);

  // Takes exactly [offset, offset + bytes); false if not all of it is free.
  bool TakeAt(uint64_t offset, uint64_t bytes);

  // Gives a range back. False (and no change) if a part of it is free already.
  bool Give(uint64_t offset, uint64_t bytes);

  uint64_t total_bytes() const { return total_bytes_; }
  uint64_t largest_bytes() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }
  size_t range_count() const { return by_offset_.size(); }

 private:
  using BySize = absl::btree_set<std::pair<uint64_t, uint64_t>>;  // (bytes, offset)

  BySize::iterator FindFit(uint64_t bytes, uint64_t alignment);
  void Insert(uint64_t offset, uint64_t bytes);
  void Erase(uint64_t offset, uint64_t bytes);
  void CutOut(uint64_t range_offset, uint64_t range_bytes, uint64_t offset, uint64_t bytes);

  absl::btree_map<uint64_t, uint64_t> by_offset_;  // offset -> bytes
  BySize by_size_;
  uint64_t total_bytes_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_SERVER_ALLOCATOR_FREE_RANGES_H_
