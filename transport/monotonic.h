// The clock for deadlines: CLOCK_MONOTONIC, which nobody sets.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     about 25 ns a call; the count says nothing on another host or after a boot
#ifndef PENSTOCK_TRANSPORT_MONOTONIC_H_
#define PENSTOCK_TRANSPORT_MONOTONIC_H_

#include <time.h>

#include <cstdint>

#include "absl/time/time.h"

namespace penstock {

inline int64_t MonotonicNanos() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The same as a time: to be compared with its like only, never shown or sent.
inline absl::Time MonotonicNow() { return absl::FromUnixNanos(MonotonicNanos()); }

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_MONOTONIC_H_
