// PollDeadline: waits until a socket is ready or a timeout, counted once from the start, is over.
//
// Threading:  one thread at a time
// Ownership:  borrows the descriptor during Wait
// Errors:     DEADLINE_EXCEEDED; EINTR is not seen by the caller
// Limits:     millisecond resolution, rounded up
#ifndef PENSTOCK_TRANSPORT_FD_SOCKET_POLL_DEADLINE_H_
#define PENSTOCK_TRANSPORT_FD_SOCKET_POLL_DEADLINE_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace penstock {

class PollDeadline {
 public:
  explicit PollDeadline(absl::Duration timeout);

  // `events`: POLLIN or POLLOUT. Hang-up and error count as ready: the next call reports them.
  absl::Status Wait(int fd, short events, const char* operation) const;

 private:
  absl::Duration timeout_;
  absl::Time end_;  // MonotonicNow
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_FD_SOCKET_POLL_DEADLINE_H_
