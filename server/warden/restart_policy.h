// RestartPolicy: how long the warden waits before it forks the next node.
//
// A node that dies is replaced at once. One that dies again and again (a broken library, a full
// host) must not burn a core: more than five deaths in ten seconds and the starts slow down, to one
// a second at most.
//
// Threading:  one thread at a time
// Ownership:  none
// Errors:     none
// Limits:     remembers the deaths of the last ten seconds only
#ifndef PENSTOCK_SERVER_WARDEN_RESTART_POLICY_H_
#define PENSTOCK_SERVER_WARDEN_RESTART_POLICY_H_

#include <deque>

#include "absl/time/time.h"

namespace penstock::warden {

class RestartPolicy {
 public:
  static constexpr int kFreeDeaths = 5;
  static constexpr absl::Duration Window() { return absl::Seconds(10); }
  static constexpr absl::Duration LongestDelay() { return absl::Seconds(1); }

  // A node died at `now` (never earlier than in the call before). Returns the delay of its
  // successor.
  absl::Duration OnDeath(absl::Time now);

  int recent_deaths() const { return static_cast<int>(deaths_.size()); }

 private:
  std::deque<absl::Time> deaths_;
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_RESTART_POLICY_H_
