// Size classes: how many bytes a block of n bytes takes, at most 12.5 % more than n.
//
// Small blocks (to 4 KiB) have classes with three mantissa bits: 1..16 by one, then eight classes
// per power of two. A class is a multiple of every power of two that divides n (to 16), so a block
// of 8-byte elements is 8-byte aligned in its slab without any rule about alignment.
//
// Threading:  pure functions
// Ownership:  none
// Errors:     none; the caller keeps n below 2^63
// Limits:     a few instructions
#ifndef PENSTOCK_SERVER_ALLOCATOR_SIZE_CLASS_H_
#define PENSTOCK_SERVER_ALLOCATOR_SIZE_CLASS_H_

#include <bit>
#include <cstdint>

namespace penstock {

inline constexpr uint64_t kMaxSmallBytes = 4096;             // above: ranges, no slabs
inline constexpr uint64_t kRangeGranuleBytes = 256;          // unit and alignment of ranges
inline constexpr uint64_t kWholePagesFromBytes = 32 * 1024;  // from here up: whole pages
inline constexpr uint64_t kPageGranuleBytes = 4096;
inline constexpr int kSmallClassCount = 16 + 8 * 8;

constexpr uint64_t AlignUp(uint64_t value, uint64_t unit) { return (value + unit - 1) & -unit; }
constexpr uint64_t AlignDown(uint64_t value, uint64_t unit) { return value & -unit; }

// Class of a small block: 0 <= class < kSmallClassCount for 1 <= nbytes <= kMaxSmallBytes.
constexpr int SmallClass(uint64_t nbytes) {
  if (nbytes <= 16) return static_cast<int>(nbytes) - 1;
  const int power = std::bit_width(nbytes - 1);  // 17..32 -> 5
  const uint64_t eighths = (nbytes + (uint64_t{1} << (power - 4)) - 1) >> (power - 4);  // 9..16
  return 16 + (power - 5) * 8 + static_cast<int>(eighths) - 9;
}

constexpr uint64_t SmallClassBytes(int size_class) {
  if (size_class < 16) return static_cast<uint64_t>(size_class) + 1;
  const int power = (size_class - 16) / 8 + 5;
  return static_cast<uint64_t>((size_class - 16) % 8 + 9) << (power - 4);
}

constexpr uint64_t BlockBytes(uint64_t nbytes) {
  if (nbytes == 0) return 0;
  if (nbytes <= kMaxSmallBytes) return SmallClassBytes(SmallClass(nbytes));
  return AlignUp(nbytes, nbytes < kWholePagesFromBytes ? kRangeGranuleBytes : kPageGranuleBytes);
}

static_assert(SmallClass(1) == 0 && SmallClass(kMaxSmallBytes) == kSmallClassCount - 1);
static_assert(SmallClassBytes(kSmallClassCount - 1) == kMaxSmallBytes);
static_assert(BlockBytes(kMaxSmallBytes + 1) * 8 <= (kMaxSmallBytes + 1) * 9);
static_assert(BlockBytes(kWholePagesFromBytes + 1) * 8 <= (kWholePagesFromBytes + 1) * 9);

}  // namespace penstock

#endif  // PENSTOCK_SERVER_ALLOCATOR_SIZE_CLASS_H_
