#include "server/allocator/block_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <vector>

namespace penstock {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

uint64_t Seed() {
  const char* given = std::getenv("PENSTOCK_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

// An allocator beside the plainest possible books: what is taken, by offset.
class Shadow {
 public:
  explicit Shadow(uint64_t size) : allocator(size), size_(size) {}

  bool Allocate(uint64_t nbytes) {
    const auto offset = allocator.Allocate(nbytes);
    if (!offset) return false;
    Check(*offset, nbytes);
    if (nbytes == 0) return true;
    blocks_[*offset] = nbytes;
    used_ += BlockAllocator::BlockSize(nbytes);
    order_.push_back(*offset);
    return true;
  }

  void FreeAt(size_t index) {
    const uint64_t offset = order_[index];
    order_[index] = order_.back();
    order_.pop_back();
    const uint64_t nbytes = blocks_.at(offset);
    blocks_.erase(offset);
    used_ -= BlockAllocator::BlockSize(nbytes);
    allocator.Free(offset, nbytes);
  }

  void CheckTotals() const {
    ASSERT_EQ(allocator.used_bytes(), used_);
    ASSERT_LE(allocator.used_bytes() + allocator.free_bytes(), allocator.size());
    ASSERT_EQ(allocator.empty(), blocks_.empty());
  }

  BlockAllocator allocator;
  const std::map<uint64_t, uint64_t>& blocks() const { return blocks_; }
  size_t count() const { return order_.size(); }

 private:
  void Check(uint64_t offset, uint64_t nbytes) const {
    const uint64_t taken = BlockAllocator::BlockSize(nbytes);
    ASSERT_LE(offset + taken, size_);
    const uint64_t alignment = nbytes >= 32 * 1024 ? 4096
                               : nbytes > 2048     ? 256
                               : nbytes >= 512     ? 64
                               : nbytes % 8 == 0   ? 8
                                                   : 1;
    ASSERT_EQ(offset % alignment, 0u) << nbytes << " bytes at " << offset;
    if (nbytes == 0) return;
    const auto next = blocks_.lower_bound(offset);
    if (next != blocks_.end()) {
      ASSERT_LE(offset + taken, next->first) << "overlaps the next";
    }
    if (next != blocks_.begin()) {
      const auto before = std::prev(next);
      ASSERT_LE(before->first + BlockAllocator::BlockSize(before->second), offset)
          << "overlaps the one before";
    }
  }

  const uint64_t size_;
  std::map<uint64_t, uint64_t> blocks_;
  std::vector<uint64_t> order_;
  uint64_t used_ = 0;
};

// Sizes over the whole scale, the borders often.
uint64_t RandomSize(std::mt19937_64& random, int max_power) {
  const uint64_t borders[] = {0, 1, 16, 17, 2048, 2049, 32767, 32768, 32769, 65536, 2 * kMiB};
  if (random() % 8 == 0) return borders[random() % 11];
  return random() % (uint64_t{1} << (1 + random() % static_cast<uint64_t>(max_power)));
}

class RandomTrace : public testing::TestWithParam<std::pair<uint64_t, int>> {};

TEST_P(RandomTrace, NoOverlapRightAlignmentAndEmptyAtTheEnd) {
  const auto [size, max_power] = GetParam();
  const uint64_t seed = Seed();
  SCOPED_TRACE("PENSTOCK_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  Shadow shadow(size);
  int refused = 0;
  for (int step = 0; step < 60000; ++step) {
    const bool growing = step / 5000 % 2 == 0;
    if (shadow.count() > 0 && random() % 10 >= (growing ? 7u : 3u)) {
      shadow.FreeAt(random() % shadow.count());
    } else if (!shadow.Allocate(RandomSize(random, max_power))) {
      ++refused;
    }
    ASSERT_FALSE(HasFatalFailure());
    if (step % 1000 == 0) shadow.CheckTotals();
  }
  EXPECT_GT(refused, 0) << "the trace never fills the segment: it tests too little";
  while (shadow.count() > 0) shadow.FreeAt(random() % shadow.count());
  shadow.CheckTotals();
  EXPECT_EQ(shadow.allocator.largest_free(), size) << "all joined into one range again";
  EXPECT_EQ(shadow.allocator.free_bytes(), size);
}

INSTANTIATE_TEST_SUITE_P(Sizes, RandomTrace,
                         testing::Values(std::pair{8 * kMiB, 12}, std::pair{64 * kMiB, 22},
                                         std::pair{kMiB + 256, 16}));

TEST(BlockAllocator, RecoveredBooksEqualTheOriginal) {
  const uint64_t seed = Seed();
  SCOPED_TRACE("PENSTOCK_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  Shadow shadow(64 * kMiB);
  for (int step = 0; step < 30000; ++step) {
    if (shadow.count() > 0 && random() % 3 == 0) {
      shadow.FreeAt(random() % shadow.count());
    } else {
      shadow.Allocate(RandomSize(random, 18));
    }
  }
  std::vector<std::pair<uint64_t, uint64_t>> blocks(shadow.blocks().begin(), shadow.blocks().end());
  std::shuffle(blocks.begin(), blocks.end(), random);  // the catalog's order is no order
  BlockAllocator recovered(64 * kMiB);
  for (const auto& [offset, nbytes] : blocks) {
    ASSERT_TRUE(recovered.Reserve(offset, nbytes).ok()) << recovered.Reserve(offset, nbytes);
  }
  EXPECT_EQ(recovered.used_bytes(), shadow.allocator.used_bytes());
  EXPECT_EQ(recovered.free_bytes(), shadow.allocator.free_bytes());
  EXPECT_EQ(recovered.largest_free(), shadow.allocator.largest_free());
  // What is free in one is free in the other: a second recovery of all blocks is refused whole ...
  for (const auto& [offset, nbytes] : blocks) {
    ASSERT_EQ(recovered.Reserve(offset, nbytes).code(), absl::StatusCode::kAlreadyExists);
  }
  // ... and giving all back leaves nothing.
  for (const auto& [offset, nbytes] : blocks) recovered.Free(offset, nbytes);
  EXPECT_EQ(recovered.largest_free(), 64 * kMiB);
}

TEST(BlockAllocator, ReserveRefusesDamagedRecords) {
  const auto invalid = absl::StatusCode::kInvalidArgument,
             exists = absl::StatusCode::kAlreadyExists;
  BlockAllocator allocator(kMiB);
  ASSERT_TRUE(allocator.Reserve(0, 24).ok());
  EXPECT_EQ(allocator.Reserve(0, 24).code(), exists) << "the same block twice";
  EXPECT_EQ(allocator.Reserve(48, 100).code(), invalid) << "no slot of its class there";
  const absl::Status two_classes =
      allocator.Reserve(104, 100);  // class 104: slot 1, other slab class
  EXPECT_EQ(two_classes.code(), exists);
  EXPECT_THAT(std::string(two_classes.message()), testing::HasSubstr("holds blocks of 24"));
  EXPECT_EQ(allocator.Reserve(65528, 24).code(), invalid) << "crosses the slab's end";
  EXPECT_EQ(allocator.Reserve(4096, 40000).code(), exists) << "a range in a slab";
  ASSERT_TRUE(allocator.Reserve(128 * 1024, 40000).ok());
  EXPECT_EQ(allocator.Reserve(128 * 1024 + 256, 5000).code(), exists) << "a range in a range";
  EXPECT_EQ(allocator.Reserve(128 * 1024, 24).code(), exists) << "a slab in a range";
  EXPECT_EQ(allocator.Reserve(512 * 1024 + 1, 5000).code(), invalid);
  EXPECT_EQ(allocator.Reserve(512 * 1024 + 256, 40000).code(), invalid) << "not on a page";
  EXPECT_EQ(allocator.Reserve(kMiB, 1).code(), invalid);
  EXPECT_EQ(allocator.Reserve(kMiB - 256, 300).code(), invalid);
  EXPECT_EQ(allocator.Reserve(UINT64_MAX, 5000).code(), invalid);
  EXPECT_EQ(allocator.Reserve(0, UINT64_MAX).code(), invalid);
  EXPECT_EQ(allocator.used_bytes(), 24u + 40960u) << "what was refused changed nothing";
}

TEST(BlockAllocator, ReserveIsForRecoveryOnly) {
  BlockAllocator allocator(kMiB);
  ASSERT_TRUE(allocator.Allocate(100).has_value());
  EXPECT_EQ(allocator.Reserve(512 * 1024, 5000).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(BlockAllocator, ZeroBytesTakeNothing) {
  BlockAllocator allocator(256);
  EXPECT_EQ(allocator.Allocate(0), 0u);
  EXPECT_TRUE(allocator.empty());
  allocator.Free(0, 0);
  EXPECT_EQ(allocator.free_bytes(), 256u);
}

TEST(BlockAllocator, FullIsFullAndUsableAgain) {
  BlockAllocator allocator(kMiB);
  std::vector<uint64_t> offsets;
  while (const auto offset = allocator.Allocate(8192)) offsets.push_back(*offset);
  EXPECT_EQ(offsets.size(), 128u);
  EXPECT_FALSE(allocator.Allocate(1).has_value());
  EXPECT_EQ(allocator.free_bytes(), 0u);
  allocator.Free(offsets[100], 8192);
  EXPECT_EQ(allocator.Allocate(5000), offsets[100]);
}

TEST(BlockAllocator, TheWholeSegmentIsOneBlock) {
  BlockAllocator allocator(4 * kMiB);
  EXPECT_FALSE(allocator.Allocate(4 * kMiB + 1).has_value());
  EXPECT_FALSE(allocator.Allocate(UINT64_MAX).has_value());
  EXPECT_EQ(allocator.Allocate(4 * kMiB), 0u);
  allocator.Free(0, 4 * kMiB);
  EXPECT_TRUE(allocator.empty());
  EXPECT_FALSE(BlockAllocator(0).Allocate(1).has_value());
}

TEST(BlockAllocator, SmallTensorsArePacked) {
  BlockAllocator allocator(kMiB);
  for (int i = 0; i < 16 * 8192; ++i) ASSERT_TRUE(allocator.Allocate(8).has_value()) << i;
  EXPECT_EQ(allocator.used_bytes(), kMiB) << "131,072 tensors of 8 bytes in 1 MiB";
  EXPECT_FALSE(allocator.Allocate(8).has_value());
}

TEST(BlockAllocator, AnEmptySlabReturnsItsRange) {
  BlockAllocator allocator(64 * 1024);
  const auto small = allocator.Allocate(10);
  ASSERT_TRUE(small.has_value());
  EXPECT_EQ(allocator.largest_free(), 0u);
  EXPECT_FALSE(allocator.Allocate(11).has_value()) << "another class needs another slab";
  allocator.Free(*small, 10);
  EXPECT_EQ(allocator.largest_free(), 64u * 1024);
  EXPECT_TRUE(allocator.Allocate(64 * 1024).has_value());
}

TEST(BlockAllocator, LargeBlocksShareNoPage) {
  Shadow shadow(64 * kMiB);
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) shadow.Allocate(1 + random() % 60000);
  uint64_t last_end = 0;
  bool last_large = false;
  for (const auto& [offset, nbytes] : shadow.blocks()) {
    const bool large = nbytes >= 32 * 1024;
    if (large || last_large) {
      EXPECT_GE(offset / 4096, (last_end + 4095) / 4096);
    }
    last_end = offset + nbytes;
    last_large = large;
  }
}

TEST(BlockAllocatorDeath, FreeOfWhatIsNotAllocated) {
  BlockAllocator allocator(kMiB);
  const uint64_t small = *allocator.Allocate(24);
  const uint64_t large = *allocator.Allocate(5000);
  EXPECT_DEATH(allocator.Free(small, 100), "not allocated") << "another class";
  EXPECT_DEATH(allocator.Free(small + 1, 24), "not allocated") << "inside the block";
  EXPECT_DEATH(allocator.Free(small + 24, 24), "not allocated") << "a free slot";
  EXPECT_DEATH(allocator.Free(large + 5120, 5000), "not allocated") << "a free range";
  EXPECT_DEATH(allocator.Free(kMiB, 1), "not allocated");
  EXPECT_DEATH(allocator.Free(UINT64_MAX, 24), "not allocated");
}

}  // namespace
}  // namespace penstock
