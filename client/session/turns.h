// Turns: waits for a word in shared memory to change: spins for a moment, then sleeps.
//
// Spinning pays when the other side runs on another core at this moment, and does harm when it has to wait for ours. Which it
// is cannot be seen, so the length follows what came of it lately; now and then a long one finds out whether that has changed.
//
// Threading:  any thread; those who wait for the same thing share one
// Ownership:  the word must stay mapped; read access is enough
// Errors:     none: every return means "look again"
// Limits:     spins for kMin to kMax, if there is more than one core
#ifndef PENSTOCK_CLIENT_SESSION_TURNS_H_
#define PENSTOCK_CLIENT_SESSION_TURNS_H_

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "transport/futex.h"
#include "transport/monotonic.h"

namespace penstock::client {

class Turns {
 public:
  void Await(const std::atomic<uint32_t>& word, uint32_t seen, absl::Duration longest) {
    static const bool more_than_one_core = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    if (more_than_one_core && Spin(word, seen)) return;
    FutexWait(&word, seen, longest);
  }

 private:
  static constexpr int32_t kMinNanos = 1'000;
  static constexpr int32_t kMaxNanos = 30'000;  // about what a sleep and its wake-up cost
  static constexpr uint32_t kProbe = 64;        // one wait of so many spins for kMaxNanos

  bool Spin(const std::atomic<uint32_t>& word, uint32_t seen) {
    const int32_t usual = nanos_.load(std::memory_order_relaxed);
    const bool probe = waits_.fetch_add(1, std::memory_order_relaxed) % kProbe == 0;
    const int32_t budget = probe ? kMaxNanos : usual;
    const int64_t end = MonotonicNanos() + budget;
    do {
      for (int i = 0; i < 32; ++i) {
        if (word.load(std::memory_order_acquire) != seen) {
          nanos_.store(std::min(2 * budget, kMaxNanos), std::memory_order_relaxed);
          return true;
        }
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    } while (MonotonicNanos() < end);
    if (!probe) nanos_.store(std::max(usual / 2, kMinNanos), std::memory_order_relaxed);
    return false;
  }

  std::atomic<int32_t> nanos_{kMaxNanos};
  std::atomic<uint32_t> waits_{0};
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_TURNS_H_
