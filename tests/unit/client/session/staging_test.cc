#include "client/session/staging.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace penstock::client {
namespace {

TEST(StagingArea, GoesRoundInTheFirstMiB) {
  constexpr uint32_t kMiBUnits = (1u << 20) / 64;
  StagingArea area(8 * kMiBUnits);
  uint32_t next = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint32_t at = *area.Allocate(100);
    EXPECT_EQ(at, next);
    next = at + 100 >= kMiBUnits ? 0 : at + 100;
    area.Free(at);
  }
}

TEST(StagingArea, GivesOutEverythingAndNoMore) {
  StagingArea area(100);
  EXPECT_TRUE(area.Allocate(60).has_value());
  EXPECT_FALSE(area.Allocate(41).has_value());
  EXPECT_TRUE(area.Allocate(40).has_value());
  EXPECT_FALSE(area.Allocate(1).has_value());
  EXPECT_EQ(area.used_units(), 100u);
}

TEST(StagingArea, MergesWhatWasFreedInAnyOrder) {
  StagingArea area(100);
  uint32_t at[10];
  for (uint32_t& one : at) one = *area.Allocate(10);
  for (const int i : {3, 1, 2, 0, 9, 8, 4, 6, 5, 7}) area.Free(at[i]);
  EXPECT_EQ(area.Allocate(100), 0u);
}

TEST(StagingArea, LongLivedBlockIsNoObstacle) {
  StagingArea area(100);
  const uint32_t stays = *area.Allocate(5);
  for (int i = 0; i < 1000; ++i) {
    const auto a = area.Allocate(40);
    const auto b = area.Allocate(50);
    ASSERT_TRUE(a && b) << i;
    area.Free(*a);
    area.Free(*b);
  }
  area.Free(stays);
  EXPECT_EQ(area.used_units(), 0u);
}

TEST(StagingArea, RandomTraceNeverOverlaps) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  StagingArea area(4096);
  std::map<uint32_t, uint32_t> blocks;
  for (int step = 0; step < 50000; ++step) {
    if (random() % 2 == 0 && !blocks.empty()) {
      auto it = blocks.lower_bound(random() % 4096);
      if (it == blocks.end()) it = blocks.begin();
      area.Free(it->first);
      blocks.erase(it);
      continue;
    }
    const uint32_t units = 1 + random() % 200;
    const auto at = area.Allocate(units);
    if (!at) continue;
    const auto next = blocks.lower_bound(*at);
    ASSERT_TRUE(next == blocks.end() || *at + units <= next->first);
    if (next != blocks.begin()) {
      const auto before = std::prev(next);
      ASSERT_LE(before->first + before->second, *at);
    }
    ASSERT_LE(*at + units, 4096u);
    blocks[*at] = units;
  }
}

}  // namespace
}  // namespace penstock::client
