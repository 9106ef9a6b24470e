#include "transport/lane/byte_runs.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace penstock {
namespace {

std::vector<uint64_t> Walk(const ByteRuns& runs, uint64_t skip, uint64_t step) {
  std::vector<uint64_t> offsets;
  for (RunCursor cursor(runs, skip); !cursor.done();) {
    const RunCursor::Piece piece = cursor.Next(step);
    EXPECT_GT(piece.length, 0u);
    EXPECT_LE(piece.length, step);
    for (uint64_t i = 0; i < piece.length; ++i) offsets.push_back(piece.offset + i);
  }
  return offsets;
}

TEST(ByteRuns, OneRun) {
  EXPECT_EQ(Walk({.offset = 3, .run_bytes = 4, .dims = {}}, 0, 100), (std::vector<uint64_t>{3, 4, 5, 6}));
  EXPECT_EQ(Walk({.offset = 3, .run_bytes = 4, .dims = {}}, 2, 1), (std::vector<uint64_t>{5, 6}));
  EXPECT_TRUE(Walk({.offset = 3, .run_bytes = 4, .dims = {}}, 4, 1).empty());
}

TEST(ByteRuns, NoBytes) {
  EXPECT_TRUE(Walk(ByteRuns::Whole(0), 0, 1).empty());
  EXPECT_TRUE(Walk({.offset = 1, .run_bytes = 4, .dims = {{3, 8}, {0, 1}}}, 0, 1).empty());
  EXPECT_TRUE((ByteRuns{.offset = 100, .run_bytes = 4, .dims = {{0, 1}}}.CheckWithin(0).ok()));
}

TEST(ByteRuns, SkippingIsTheSameAsWalkingThere) {
  std::mt19937_64 random{11};
  for (int round = 0; round < 300; ++round) {
    ByteRuns runs{.offset = random() % 50, .run_bytes = 1 + random() % 9, .dims = {}};
    for (size_t i = random() % 4; i > 0; --i) runs.dims.push_back({1 + random() % 4, random() % 40});
    const std::vector<uint64_t> all = Walk(runs, 0, 1 + random() % 12);
    ASSERT_EQ(all.size(), runs.bytes());
    const uint64_t skip = random() % (all.size() + 1);
    ASSERT_EQ(Walk(runs, skip, 1 + random() % 12), std::vector<uint64_t>(all.begin() + static_cast<ptrdiff_t>(skip), all.end())) << round;
  }
}

TEST(ByteRuns, LastRunMayEndWithTheBlock) {
  const ByteRuns runs{.offset = 2, .run_bytes = 3, .dims = {{2, 10}, {3, 4}}};
  EXPECT_TRUE(runs.CheckWithin(2 + 10 + 8 + 3).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(runs.CheckWithin(2 + 10 + 8 + 2)));
}

TEST(ByteRuns, TooManyDimensions) {
  ByteRuns runs = ByteRuns::Whole(1);
  runs.dims.resize(kMaxRunDims, {1, 0});
  EXPECT_TRUE(runs.CheckWithin(1).ok());
  runs.dims.push_back({1, 0});
  EXPECT_TRUE(absl::IsInvalidArgument(runs.CheckWithin(1)));
}

}  // namespace
}  // namespace penstock
