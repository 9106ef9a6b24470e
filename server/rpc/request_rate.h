// RequestRate: how many requests clients get served in a second; those above it wait, and nobody is refused.
//
// A token bucket that holds what a tenth of a second brings, as one word: the time at which it would be full again. Shared by the
// rings and gRPC, so clients cannot have twice the rate by using both.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     0 = no limit, which costs a comparison
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"

namespace penstock::server {

class RequestRate {
 public:
  explicit RequestRate(uint64_t per_second = 0)
      : per_second_(per_second), interval_(per_second == 0 ? absl::ZeroDuration() : absl::Seconds(1) / static_cast<int64_t>(per_second)) {}

  uint64_t per_second() const { return per_second_; }
  bool limited() const { return interval_ > absl::ZeroDuration(); }

  // True: one more may be served. False: none before next().
  bool Take(absl::Time now) {
    if (!limited()) return true;
    std::lock_guard lock(mutex_);
    const absl::Time from = std::max(full_at_, now - kBurst);
    if (from > now) return false;
    full_at_ = from + interval_;
    return true;
  }
  absl::Time next() const {
    std::lock_guard lock(mutex_);
    return full_at_;
  }

  void CountWait() { waited_.fetch_add(1, std::memory_order_relaxed); }
  uint64_t waited() const { return waited_.load(std::memory_order_relaxed); }  // requests

 private:
  static constexpr absl::Duration kBurst = absl::Milliseconds(100);

  const uint64_t per_second_;
  const absl::Duration interval_;
  std::atomic<uint64_t> waited_{0};
  mutable std::mutex mutex_;
  absl::Time full_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace penstock::server
