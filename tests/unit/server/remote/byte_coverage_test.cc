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

TEST(ByteCoverage, TellsWhatIsThereAndWhatIsMissing) {
  std::mt19937 random(8);
  for (int round = 0; round < 200; ++round) {
    ByteCoverage coverage;
    std::vector<bool> model(300);
    for (int i = 0; i < 8; ++i) {
      const uint64_t begin = random() % 300;
      const uint64_t end = begin + random() % (std::min<uint64_t>(60, 301 - begin));
      coverage.Add(begin, end);
      for (uint64_t at = begin; at < end; ++at) model[at] = true;
    }
    for (uint64_t at = 0; at < 300; ++at) {
      const auto hole = std::find(model.begin() + static_cast<int64_t>(at), model.end(), false);
      ASSERT_EQ(coverage.From(at), static_cast<uint64_t>(hole - model.begin()) - at) << "round " << round;
    }
    EXPECT_EQ(coverage.From(300), 0u);
    std::vector<bool> shown(300, true);
    uint64_t last = 0;
    for (const auto& [begin, end] : coverage.Missing(300)) {
      ASSERT_TRUE(begin < end && end <= 300 && (begin > last || begin == 0)) << "in order, and apart";
      std::fill(shown.begin() + static_cast<int64_t>(begin), shown.begin() + static_cast<int64_t>(end), false);
      last = end;
    }
    ASSERT_EQ(shown, model) << "round " << round;
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
