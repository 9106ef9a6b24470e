#include "server/cluster/link_load.h"

#include <gtest/gtest.h>

namespace penstock::server {
namespace {

TEST(LinkLoad, IsThePartOfTheLinkThatWasUsedSinceTheLastCall) {
  const absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  LinkLoad load(1000);
  EXPECT_EQ(load.Busy(5'000'000, 7'000'000, now), 0) << "since when, nobody knows";
  EXPECT_DOUBLE_EQ(load.Busy(5'000'500, 7'000'100, now + absl::Seconds(1)), 0.5) << "the busier direction";
  EXPECT_DOUBLE_EQ(load.Busy(5'000'500, 7'000'600, now + absl::Seconds(3)), 0.25);
  EXPECT_DOUBLE_EQ(load.Busy(9'000'500, 7'000'600, now + absl::Seconds(4)), 1) << "not more";
  EXPECT_DOUBLE_EQ(load.Busy(0, 7'000'600, now + absl::Seconds(5)), 0) << "a peer that was counted is gone";
}

TEST(LinkLoad, FindsTheSpeedOutByItself) {
  LinkLoad load;
  (void)load.Busy(0, 0, absl::UnixEpoch());
  const double busy = load.Busy(1'000'000, 0, absl::UnixEpoch() + absl::Seconds(1));
  EXPECT_GT(busy, 0);
  EXPECT_LT(busy, 1);
}

}  // namespace
}  // namespace penstock::server
