#include "server/remote/byte_coverage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace penstock::server {
namespace {

TEST(ByteCoverage, CountsEveryByteOnce) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    ByteCoverage coverage;
    std::vector<bool> model(300);
    for (int i = 0; i < 40; ++i) {
      const uint64_t begin = random() % 300;
      const uint64_t end = begin + random() % (301 - begin);
      coverage.Add(begin, end);
      for (uint64_t at = begin; at < end; ++at) model[at] = true;
      ASSERT_EQ(coverage.bytes(), static_cast<uint64_t>(std::count(model.begin(), model.end(), true))) << "round " << round;
    }
  }
}

TEST(ByteCoverage, TooManyGapsLeaveBytesUncounted) {
  ByteCoverage coverage;
  for (uint64_t i = 0; i < 2 * ByteCoverage::kMaxGaps; ++i) coverage.Add(2 * i, 2 * i + 1);
  EXPECT_EQ(coverage.bytes(), ByteCoverage::kMaxGaps);
  coverage.Add(0, 4 * ByteCoverage::kMaxGaps);
  EXPECT_EQ(coverage.bytes(), 4 * ByteCoverage::kMaxGaps);
}

}  // namespace
}  // namespace penstock::server
