#include "server/warden/restart_policy.h"

#include <algorithm>

namespace penstock::warden {

absl::Duration RestartPolicy::OnDeath(absl::Time now) {
  deaths_.push_back(now);
  while (deaths_.front() <= now - Window()) deaths_.pop_front();
  const int extra = recent_deaths() - kFreeDeaths;
  if (extra <= 0) return absl::ZeroDuration();
  constexpr int kMostDoublings = 10;
  return std::min(absl::Milliseconds(50) * (1 << std::min(extra - 1, kMostDoublings)),
                  LongestDelay());
}

}  // namespace penstock::warden
