#include "server/warden/restart_policy.h"

#include <gtest/gtest.h>

namespace penstock::warden {
namespace {

const absl::Time kStart = absl::UnixEpoch();

TEST(RestartPolicy, FiveDeathsInTenSecondsAreReplacedAtOnce) {
  RestartPolicy policy;
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(policy.OnDeath(kStart + absl::Milliseconds(i)), absl::ZeroDuration()) << i;
  }
}

TEST(RestartPolicy, MoreDeathsWaitLongerUpToOneSecond) {
  RestartPolicy policy;
  absl::Duration last = absl::ZeroDuration();
  for (int i = 0; i < 60; ++i) {
    const absl::Duration delay = policy.OnDeath(kStart + absl::Milliseconds(i));
    EXPECT_EQ(delay > absl::ZeroDuration(), i >= 5) << i;
    EXPECT_GE(delay, last) << i;
    EXPECT_LE(delay, absl::Seconds(1)) << i;
    last = delay;
  }
  EXPECT_EQ(last, absl::Seconds(1));
}

TEST(RestartPolicy, OldDeathsAreForgotten) {
  RestartPolicy policy;
  for (int i = 0; i < 20; ++i) policy.OnDeath(kStart);
  EXPECT_EQ(policy.OnDeath(kStart + absl::Seconds(10)), absl::ZeroDuration());
  EXPECT_EQ(policy.recent_deaths(), 1);
}

TEST(RestartPolicy, DeathsFarApartNeverWait) {
  RestartPolicy policy;
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(policy.OnDeath(kStart + i * absl::Seconds(3)), absl::ZeroDuration()) << i;
  }
}

}  // namespace
}  // namespace penstock::warden
