#include "server/allocator/size_class.h"

#include <gtest/gtest.h>

#include <random>

namespace penstock {
namespace {

void ExpectFits(uint64_t nbytes) {
  const uint64_t block = BlockBytes(nbytes);
  ASSERT_GE(block, nbytes);
  ASSERT_LE((block - nbytes) * 8, nbytes) << nbytes << " bytes take " << block << ": over 12.5 %";
}

TEST(SizeClass, WasteIsAtMostAnEighthForEverySizeUpTo1MiB) {
  for (uint64_t nbytes = 1; nbytes <= 1 << 20; ++nbytes) ExpectFits(nbytes);
}

TEST(SizeClass, WasteIsAtMostAnEighthUpTo1GiBSampled) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000000; ++i) ExpectFits(1 + random() % (uint64_t{1} << (1 + random() % 30)));
  for (uint64_t nbytes = 1; nbytes <= uint64_t{1} << 30; nbytes *= 2) {
    ExpectFits(nbytes);
    ExpectFits(nbytes + 1);
  }
}

TEST(SizeClass, ClassesAreDenseAndAscending) {
  int last = -1;
  for (uint64_t nbytes = 1; nbytes <= kMaxSmallBytes; ++nbytes) {
    const int size_class = SmallClass(nbytes);
    ASSERT_TRUE(size_class == last || size_class == last + 1) << nbytes;
    ASSERT_GE(SmallClassBytes(size_class), nbytes);
    if (size_class > 0) {
      ASSERT_LT(SmallClassBytes(size_class - 1), nbytes);
    }
    last = size_class;
  }
  EXPECT_EQ(last, kSmallClassCount - 1);
}

TEST(SizeClass, KeepsElementsAligned) {
  for (uint64_t item = 2; item <= 16; item *= 2) {
    for (uint64_t nbytes = item; nbytes <= kMaxSmallBytes; nbytes += item) {
      ASSERT_EQ(BlockBytes(nbytes) % item, 0u) << nbytes << " bytes of items of " << item;
    }
  }
  for (uint64_t nbytes = 512; nbytes <= kMaxSmallBytes; ++nbytes) {
    ASSERT_EQ(BlockBytes(nbytes) % 64, 0u) << nbytes;
  }
}

TEST(SizeClass, Borders) {
  EXPECT_EQ(BlockBytes(0), 0u);
  EXPECT_EQ(BlockBytes(1), 1u);
  EXPECT_EQ(BlockBytes(16), 16u);
  EXPECT_EQ(BlockBytes(17), 18u);
  EXPECT_EQ(BlockBytes(2048), 2048u);
  EXPECT_EQ(BlockBytes(2049), 2304u);
  EXPECT_EQ(BlockBytes(32767), 32768u);
  EXPECT_EQ(BlockBytes(32768), 32768u);
  EXPECT_EQ(BlockBytes(32769), 36864u);
}

}  // namespace
}  // namespace penstock
