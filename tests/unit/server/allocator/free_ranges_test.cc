#include "server/allocator/free_ranges.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB;

TEST(FreeRanges, TakesTheSmallestRangeThatFits) {
  FreeRanges ranges(1 * kMiB);
  ASSERT_TRUE(ranges.TakeAt(16 * kKiB, 16 * kKiB));  // leaves 0..16
  ASSERT_TRUE(ranges.TakeAt(40 * kKiB, 16 * kKiB));  // leaves 32..40
  EXPECT_EQ(ranges.Take(8 * kKiB, 256, 256), 32 * kKiB);
  EXPECT_EQ(ranges.Take(9 * kKiB, 256, 256), 0u);
  EXPECT_EQ(ranges.Take(100 * kKiB, 256, 256), 56 * kKiB);
}

TEST(FreeRanges, JoinsNeighboursOnBothSides) {
  FreeRanges ranges(64 * kKiB);
  for (uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(ranges.Take(16 * kKiB, 256, 256).has_value());
  EXPECT_EQ(ranges.total_bytes(), 0u);
  EXPECT_EQ(ranges.largest_bytes(), 0u);
  ASSERT_TRUE(ranges.Give(0, 16 * kKiB));
  ASSERT_TRUE(ranges.Give(32 * kKiB, 16 * kKiB));
  EXPECT_EQ(ranges.range_count(), 2u);
  ASSERT_TRUE(ranges.Give(16 * kKiB, 16 * kKiB));
  EXPECT_EQ(ranges.range_count(), 1u);
  EXPECT_EQ(ranges.largest_bytes(), 48 * kKiB);
}

TEST(FreeRanges, RefusesToGiveBackWhatIsFree) {
  FreeRanges ranges(64 * kKiB);
  ASSERT_TRUE(ranges.TakeAt(16 * kKiB, 16 * kKiB));
  EXPECT_FALSE(ranges.Give(0, 256));
  EXPECT_FALSE(ranges.Give(8 * kKiB, 16 * kKiB));
  EXPECT_FALSE(ranges.Give(16 * kKiB, 17 * kKiB));
  EXPECT_EQ(ranges.total_bytes(), 48 * kKiB);
}

TEST(FreeRanges, TakeAtNeedsTheWholeRange) {
  FreeRanges ranges(64 * kKiB);
  ASSERT_TRUE(ranges.TakeAt(16 * kKiB, 16 * kKiB));
  EXPECT_FALSE(ranges.TakeAt(16 * kKiB, 256));
  EXPECT_FALSE(ranges.TakeAt(8 * kKiB, 16 * kKiB));
  EXPECT_FALSE(ranges.TakeAt(60 * kKiB, 8 * kKiB));
  EXPECT_TRUE(ranges.TakeAt(0, 16 * kKiB));
  EXPECT_FALSE(ranges.TakeAt(0, 256));
}

TEST(FreeRanges, AlignedFitIsFoundBehindManyThatAreJustTooShort) {
  FreeRanges ranges(4 * kMiB);
  // 100 free ranges of 4 KiB + 256 that begin at 4096 - 512 within a page: none holds an aligned
  // page
  // ... but the last, which begins on a page.
  for (uint64_t i = 0; i < 100; ++i) ASSERT_TRUE(ranges.TakeAt(i * 16 * kKiB, 16 * kKiB));
  for (uint64_t i = 0; i < 99; ++i) {
    ASSERT_TRUE(ranges.Give(i * 16 * kKiB + 4096 - 512, 4096 + 256));
  }
  ASSERT_TRUE(ranges.Give(99 * 16 * kKiB + 4096, 4096 + 256));
  ASSERT_TRUE(ranges.TakeAt(100 * 16 * kKiB, 4 * kMiB - 100 * 16 * kKiB));  // nothing larger
  EXPECT_EQ(ranges.Take(4096, 4096, 4096), 99 * 16 * kKiB + 4096);
  EXPECT_FALSE(ranges.Take(4096, 4096, 4096).has_value());
  EXPECT_TRUE(ranges.Take(4096, 256, 256).has_value());
}

TEST(FreeRanges, PrefersHugeAlignmentOnlyWhereItIsFree) {
  FreeRanges ranges(8 * kMiB);
  ASSERT_TRUE(ranges.TakeAt(0, 4096));
  EXPECT_EQ(ranges.Take(2 * kMiB, 4096, 2 * kMiB), 6 * kMiB) << "the aligned upper end";
  EXPECT_EQ(ranges.Take(2 * kMiB + 4096, 4096, 2 * kMiB), 4096u) << "no aligned end: lowest";
  EXPECT_EQ(ranges.range_count(), 1u);
}

}  // namespace
}  // namespace penstock
