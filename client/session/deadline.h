// Deadline: a point on the monotonic clock until which a call may wait.
//
// Threading:  a value
// Ownership:  none
// Errors:     none
// Limits:     nanoseconds; an infinite timeout never passes
#ifndef PENSTOCK_CLIENT_SESSION_DEADLINE_H_
#define PENSTOCK_CLIENT_SESSION_DEADLINE_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "transport/monotonic.h"

namespace penstock::client {

class Deadline {
 public:
  static Deadline After(absl::Duration timeout) {
    if (timeout >= absl::Hours(24 * 365)) return Deadline(INT64_MAX);
    return Deadline(MonotonicNanos() +
                    std::max<int64_t>(0, absl::ToInt64Nanoseconds(timeout)));
  }
  static Deadline Never() { return Deadline(INT64_MAX); }

  bool Passed() const { return nanos_ != INT64_MAX && MonotonicNanos() >= nanos_; }

  // What is left, never negative.
  absl::Duration Left() const {
    if (nanos_ == INT64_MAX) return absl::InfiniteDuration();
    return absl::Nanoseconds(std::max<int64_t>(0, nanos_ - MonotonicNanos()));
  }

  // What is left, at most `slice`: for waits that look around from time to time.
  absl::Duration Slice(absl::Duration slice) const { return std::min(slice, Left()); }

 private:
  explicit Deadline(int64_t nanos) : nanos_(nanos) {}
  int64_t nanos_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_DEADLINE_H_
