#include "server/rpc/request_rate.h"

#include <gtest/gtest.h>

namespace penstock::server {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

int TakeAll(RequestRate& rate, absl::Time now) {
  int taken = 0;
  while (rate.Take(now)) ++taken;
  return taken;
}

TEST(RequestRate, WithoutALimitAllAreServed) {
  RequestRate rate;
  EXPECT_FALSE(rate.limited());
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(rate.Take(kStart));
}

TEST(RequestRate, BurstIsATenthOfASecondAndThenTheRateCounts) {
  RequestRate rate(1000);
  EXPECT_EQ(TakeAll(rate, kStart), 101);
  EXPECT_EQ(rate.next(), kStart + absl::Milliseconds(1));
  EXPECT_EQ(TakeAll(rate, kStart + absl::Milliseconds(1)), 1);
  EXPECT_EQ(TakeAll(rate, kStart + absl::Milliseconds(11)), 10);
  EXPECT_EQ(TakeAll(rate, kStart + absl::Hours(1)), 101) << "what was not used is not saved up";
}

TEST(RequestRate, OverALongTimeItIsTheRate) {
  RequestRate rate(50);
  int served = 0;
  for (int ms = 0; ms < 10'000; ms += 3) served += TakeAll(rate, kStart + absl::Milliseconds(ms));
  EXPECT_NEAR(served, 500, 6);
}

TEST(RequestRate, OneASecondIsPossible) {
  RequestRate rate(1);
  EXPECT_EQ(TakeAll(rate, kStart), 1);
  EXPECT_EQ(TakeAll(rate, kStart + absl::Milliseconds(850)), 0);
  EXPECT_EQ(TakeAll(rate, kStart + absl::Milliseconds(1000)), 1);
}

}  // namespace
}  // namespace penstock::server
