// RateLimit: bytes of which so many may be moved in a second.
//
//   absl::Duration wait = rate.Take(nbytes, MonotonicNow());      // then move them
//
// Threading:  one thread at a time
// Ownership:  a value
// Errors:     none
// Limits:     what is taken at once is moved at once; the next one waits until it would have been done at that rate
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace penstock::server {

class RateLimit {
 public:
  explicit RateLimit(uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}  // 0: any number

  // How long to wait before these bytes.
  absl::Duration Take(uint64_t bytes, absl::Time now) {
    if (bytes_per_second_ == 0) return absl::ZeroDuration();
    const absl::Time begin = std::max(now, free_at_);
    free_at_ = begin + absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
    return begin - now;
  }

 private:
  uint64_t bytes_per_second_;
  absl::Time free_at_ = absl::InfinitePast();
};

}  // namespace penstock::server
