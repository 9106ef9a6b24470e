#include "transport/fd_socket/poll_deadline.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "transport/monotonic.h"
#include "transport/sys_error.h"

namespace penstock {

PollDeadline::PollDeadline(absl::Duration timeout)
    : timeout_(timeout), end_(MonotonicNow() + timeout) {}

absl::Status PollDeadline::Wait(int fd, short events, const char* operation) const {
  for (;;) {
    int wait_ms = -1;
    if (timeout_ != absl::InfiniteDuration()) {
      const absl::Duration left = std::max(end_ - MonotonicNow(), absl::ZeroDuration());
      const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
      wait_ms = static_cast<int>(std::min<int64_t>(ms, 1000000000));
    }
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, wait_ms);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return SysError(errno, absl::StrCat("poll for ", operation));
    if (ready == 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(operation, ": not ready within ", absl::FormatDuration(timeout_)));
    }
  }
}

}  // namespace penstock
