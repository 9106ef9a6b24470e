#include "server/allocator/slab.h"

#include <bit>

#include "server/allocator/size_class.h"

namespace penstock {
namespace {

// Sets the first `count` bits of a zeroed bitmap.
void SetFirstBits(uint64_t* words, uint32_t count) {
  for (uint32_t i = 0; i < count / 64; ++i) words[i] = ~uint64_t{0};
  if (count % 64 != 0) words[count / 64] = (uint64_t{1} << (count % 64)) - 1;
}

}  // namespace

Slab::Slab(uint64_t base, int size_class)
    : base_(base),
      size_class_(size_class),
      slot_bytes_(static_cast<uint32_t>(SmallClassBytes(size_class))),
      slot_count_(static_cast<uint32_t>(kSlabBytes) / slot_bytes_) {
  const uint32_t words = (slot_count_ + 63) / 64;
  const uint32_t summary_words = (words + 63) / 64;
  free_ = std::make_unique<uint64_t[]>(words + summary_words);
  summary_ = free_.get() + words;
  SetFirstBits(free_.get(), slot_count_);
  SetFirstBits(summary_, words);
}

uint32_t Slab::TakeAny() {
  while (summary_[first_summary_] == 0) ++first_summary_;
  const uint32_t word =
      first_summary_ * 64 + static_cast<uint32_t>(std::countr_zero(summary_[first_summary_]));
  const uint32_t slot = word * 64 + static_cast<uint32_t>(std::countr_zero(free_[word]));
  Take(slot);
  return slot;
}

void Slab::Take(uint32_t slot) {
  const uint32_t word = slot / 64;
  free_[word] &= ~(uint64_t{1} << (slot % 64));
  if (free_[word] == 0) summary_[word / 64] &= ~(uint64_t{1} << (word % 64));
  ++used_count_;
}

void Slab::Free(uint32_t slot) {
  const uint32_t word = slot / 64;
  free_[word] |= uint64_t{1} << (slot % 64);
  summary_[word / 64] |= uint64_t{1} << (word % 64);
  if (word / 64 < first_summary_) first_summary_ = word / 64;
  --used_count_;
}

}  // namespace penstock
