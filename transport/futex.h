// FutexWait and FutexWake: sleep on a 32-bit word in memory that two processes share.
//
//   // waiter                                        // waker
//   uint32_t seen = word.load();                     word.fetch_add(1);
//   if (nothing to do) FutexWait(&word, seen, ...);  FutexWake(&word);
//
// Threading:  any thread of any process that maps the word (not FUTEX_PRIVATE)
// Ownership:  the word must stay mapped while anybody waits on it
// Errors:     none: every return means "look again" (woken, changed, timed out, interrupted)
// Limits:     one system call each; FutexWait needs only read access to the word
#ifndef PENSTOCK_TRANSPORT_FUTEX_H_
#define PENSTOCK_TRANSPORT_FUTEX_H_

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>

#include "absl/time/time.h"

namespace penstock {

// False when the timeout passed; true otherwise, spurious wake-ups included. The timeout counts on
// the monotonic clock; absl::InfiniteDuration() waits for ever.
inline bool FutexWait(const std::atomic<uint32_t>* word, uint32_t expected,
                      absl::Duration timeout) {
  timespec relative{};
  const timespec* limit = nullptr;
  if (timeout != absl::InfiniteDuration()) {
    if (timeout < absl::ZeroDuration()) timeout = absl::ZeroDuration();
    relative = absl::ToTimespec(timeout);
    limit = &relative;
  }
  const long rc = syscall(SYS_futex, word, FUTEX_WAIT, expected, limit, nullptr, 0);
  return rc == 0 || errno != ETIMEDOUT;
}

// Wakes at most `count` waiters; returns how many it woke.
inline int FutexWake(const std::atomic<uint32_t>* word, int count = INT_MAX) {
  const long rc = syscall(SYS_futex, word, FUTEX_WAKE, count, nullptr, nullptr, 0);
  return rc < 0 ? 0 : static_cast<int>(rc);
}

static_assert(sizeof(std::atomic<uint32_t>) == 4 && std::atomic<uint32_t>::is_always_lock_free);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_FUTEX_H_
