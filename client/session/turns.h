// AwaitTurn: waits for a word in shared memory to change.
//
// Threading:  any thread
// Ownership:  the word must stay mapped; read access is enough
// Errors:     none: every return means "look again"
// Limits:     spins for kTurnSpin, if there is more than one core, then sleeps
#ifndef PENSTOCK_CLIENT_SESSION_TURNS_H_
#define PENSTOCK_CLIENT_SESSION_TURNS_H_

#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "transport/futex.h"
#include "transport/monotonic.h"

namespace penstock::client {

// About what a sleep and its wake-up cost.
inline constexpr int64_t kTurnSpinNanos = 30'000;

inline void AwaitTurn(const std::atomic<uint32_t>& word, uint32_t seen, absl::Duration longest) {
  static const bool more_than_one_core = sysconf(_SC_NPROCESSORS_ONLN) > 1;
  if (more_than_one_core) {
    const int64_t end = MonotonicNanos() + kTurnSpinNanos;
    do {
      for (int i = 0; i < 32; ++i) {
        if (word.load(std::memory_order_acquire) != seen) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    } while (MonotonicNanos() < end);
  }
  FutexWait(&word, seen, longest);
}

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_TURNS_H_
