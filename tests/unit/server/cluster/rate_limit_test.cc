#include "server/cluster/rate_limit.h"

#include <gtest/gtest.h>

namespace penstock::server {
namespace {

TEST(RateLimit, EachBeginsWhenThoseBeforeItWouldBeDone) {
  const absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  RateLimit rate(1000);
  EXPECT_EQ(rate.Take(500, now), absl::ZeroDuration());
  EXPECT_EQ(rate.Take(2000, now), absl::Milliseconds(500));
  EXPECT_EQ(rate.Take(1, now), absl::Milliseconds(2500));
  EXPECT_EQ(rate.Take(0, now + absl::Seconds(1)), absl::Milliseconds(1501));
}

TEST(RateLimit, WhatWasNotUsedIsNotSavedUp) {
  const absl::Time now = absl::UnixEpoch();
  RateLimit rate(1000);
  EXPECT_EQ(rate.Take(1000, now + absl::Hours(1)), absl::ZeroDuration());
  EXPECT_EQ(rate.Take(1000, now + absl::Hours(1)), absl::Seconds(1));
}

TEST(RateLimit, NoLimitIsNone) {
  RateLimit rate(0);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(rate.Take(uint64_t{1} << 50, absl::UnixEpoch()), absl::ZeroDuration());
}

}  // namespace
}  // namespace penstock::server
