#include "server/allocator/slab.h"

#include <gtest/gtest.h>

#include <set>

#include "server/allocator/size_class.h"

namespace penstock {
namespace {

TEST(Slab, EveryClassFillsEverySlotOnce) {
  for (int size_class = 0; size_class < kSmallClassCount; ++size_class) {
    Slab slab(3 * kSlabBytes, size_class);
    EXPECT_EQ(slab.slot_count(), kSlabBytes / SmallClassBytes(size_class));
    std::vector<bool> seen(slab.slot_count());
    while (!slab.full()) {
      const uint32_t slot = slab.TakeAny();
      ASSERT_LT(slot, slab.slot_count());
      ASSERT_FALSE(seen[slot]);
      ASSERT_TRUE(slab.IsTaken(slot));
      seen[slot] = true;
    }
    EXPECT_EQ(slab.used_count(), slab.slot_count());
  }
}

TEST(Slab, FindsTheOneFreeSlotWhereverItIs) {
  for (const uint64_t bytes : {1, 3, 16, 200, 2048}) {
    Slab slab(0, SmallClass(bytes));
    while (!slab.full()) slab.TakeAny();
    for (uint32_t slot = slab.slot_count(); slot-- > 0;) {  // downwards and upwards
      slab.Free(slot);
      ASSERT_FALSE(slab.IsTaken(slot));
      ASSERT_EQ(slab.TakeAny(), slot);
      const uint32_t other = slab.slot_count() - 1 - slot;
      slab.Free(other);
      ASSERT_EQ(slab.TakeAny(), other);
    }
  }
}

TEST(Slab, TakesANamedSlot) {
  Slab slab(0, SmallClass(8));
  slab.Take(0);
  slab.Take(4000);
  EXPECT_EQ(slab.used_count(), 2u);
  EXPECT_TRUE(slab.IsTaken(4000));
  EXPECT_EQ(slab.TakeAny(), 1u);
}

}  // namespace
}  // namespace penstock
