// Slab: which slots of one 64 KiB range, cut into equal small blocks, are taken.
//
// Threading:  one thread at a time
// Ownership:  owns its bitmap only; the range belongs to the allocator that made the slab
// Errors:     none; Take on a full slab and Free of a free slot are the caller's bugs
// Limits:     one bit a slot and one bit for 64 of them: finding a free one reads at most 17 words.
//             Slots do not cross the end of the range: up to 1.6 % of it stays unused
#ifndef PENSTOCK_SERVER_ALLOCATOR_SLAB_H_
#define PENSTOCK_SERVER_ALLOCATOR_SLAB_H_

#include <cstdint>
#include <memory>

namespace penstock {

inline constexpr uint64_t kSlabBytes = 64 * 1024;  // size and alignment

class Slab {
 public:
  Slab(uint64_t base, int size_class);

  uint64_t base() const { return base_; }
  int size_class() const { return size_class_; }
  uint32_t slot_bytes() const { return slot_bytes_; }
  uint32_t slot_count() const { return slot_count_; }
  uint32_t used_count() const { return used_count_; }
  bool full() const { return used_count_ == slot_count_; }

  bool IsTaken(uint32_t slot) const { return !(free_[slot / 64] >> (slot % 64) & 1); }
  uint32_t TakeAny();  // the first free slot; the slab must not be full
  void Take(uint32_t slot);
  void Free(uint32_t slot);

  // Links of the allocator's list of slabs of one class that have room.
  Slab* next = nullptr;
  Slab* previous = nullptr;

 private:
  const uint64_t base_;
  const int size_class_;
  const uint32_t slot_bytes_;
  const uint32_t slot_count_;
  uint32_t used_count_ = 0;
  uint32_t first_summary_ = 0;        // no summary word before this one is non-zero
  std::unique_ptr<uint64_t[]> free_;  // bit set = slot free; the summary words follow
  uint64_t* summary_;                 // bit set = that word of free_ is non-zero
};

}  // namespace penstock

#endif  // PENSTOCK_SERVER_ALLOCATOR_SLAB_H_
