// WardenChannel: requests of many threads over one socket, each with its answer.
//
// There is no reader thread: one of those who wait for an answer reads the socket for all of them,
// so a node pays for no thread and an uncontended call costs two system calls.
//
// Threading:  any thread
// Ownership:  owns the socket; must outlive the calls
// Errors:     what the warden answered; UNAVAILABLE when it is gone (and from then on at once)
// Limits:     kMaxKeptFds descriptors a request
#ifndef PENSTOCK_SERVER_WARDEN_WARDEN_CHANNEL_H_
#define PENSTOCK_SERVER_WARDEN_WARDEN_CHANNEL_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/warden/warden_protocol.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

class WardenChannel {
 public:
  struct Answer {
    Reply reply;
    std::vector<UniqueFd> fds;
  };

  explicit WardenChannel(UniqueFd socket) : socket_(std::move(socket)) {}

  // Sends `request` (its number is set here) and waits for the answer.
  absl::StatusOr<Answer> Call(Request request, absl::Span<const int> fds = {});

 private:
  struct Waiter {
    bool done = false;
    absl::StatusOr<Answer> result = absl::UnknownError("no answer yet");
  };

  absl::Status SendInParts(Request request, absl::Span<const int> fds);
  void ReadOne(std::unique_lock<std::mutex>& lock) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // lets go of the lock while it reads
  void Deliver(const Reply& reply, std::vector<UniqueFd> fds) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Break(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const UniqueFd socket_;
  std::mutex send_mutex_;  // the parts of one request stay together
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Waiter*> waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_WARDEN_CHANNEL_H_
