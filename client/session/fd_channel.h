// FdChannel: the client's end of the fd socket, with the thread that reads it.
//
// Requests carry a number and get the reply with the same number; notices (number 0) go to a
// handler. The thread also does small pieces of background work (entering pages of new segments
// into the page table) while the socket is quiet, and it is who notices the node's store ending.
//
// Threading:  Call and Post: any thread. The handler and the background work run on the channel's
//             thread and must not call Call.
// Ownership:  owns the socket and the thread; Stop joins it. Received descriptors go to who asked.
// Errors:     UNAVAILABLE once the socket ended (alive() is false from then on), DEADLINE_EXCEEDED,
//             the status that a Refusal carries; FAILED_PRECONDITION for another layout version
// Limits:     replies of at most 1 KiB; one thread, started on first use
#ifndef PENSTOCK_CLIENT_SESSION_FD_CHANNEL_H_
#define PENSTOCK_CLIENT_SESSION_FD_CHANNEL_H_

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/session/deadline.h"
#include "proto/layout/fd_messages.h"
#include "transport/unique_fd.h"

namespace penstock::client {

struct FdReply {
  alignas(8) std::array<char, sizeof(layout::RefusalMessage)> bytes;
  size_t size = 0;
  std::vector<UniqueFd> fds;

  const layout::FdHeader& header() const {
    return *reinterpret_cast<const layout::FdHeader*>(bytes.data());
  }
  // The message as T, or why it is not one: a Refusal's own status, or INTERNAL.
  template <class T>
  absl::StatusOr<const T*> As(layout::FdType type, size_t fd_count) const {
    if (absl::Status s = Check(type, sizeof(T), fd_count); !s.ok()) return s;
    return reinterpret_cast<const T*>(bytes.data());
  }

 private:
  absl::Status Check(layout::FdType type, size_t message_bytes, size_t fd_count) const;
};

class FdChannel {
 public:
  struct Handlers {
    std::function<void(FdReply notice)> notice;
    std::function<bool()> background;  // does one piece; true = there is more
    std::function<void()> ended;       // the socket ended; called once
  };

  explicit FdChannel(Handlers handlers) : handlers_(std::move(handlers)) {}
  FdChannel(const FdChannel&) = delete;
  FdChannel& operator=(const FdChannel&) = delete;
  ~FdChannel() { Stop(); }

  // Before first use. `generation`: the node's, in the catalog header: a request that a node took
  // with it into its grave is sent again to the next one.
  void Open(UniqueFd socket, const std::atomic<uint64_t>* generation);

  // Starts the thread if it does not run.
  absl::Status Start();
  void Stop();
  // Wakes the thread to look for background work.
  void Wake();

  bool alive() const { return alive_.load(std::memory_order_acquire); }

  // `message` starts with an FdHeader, whose magic, version and number are filled in here.
  template <class T>
  absl::StatusOr<FdReply> Call(T message, layout::FdType type, absl::Span<const int> fds,
                               const Deadline& deadline) {
    message.header.type = type;
    return CallBytes(&message.header, sizeof(T), fds, deadline);
  }
  template <class T>
  absl::Status Post(T message, layout::FdType type) {
    message.header.type = type;
    return PostBytes(&message.header, sizeof(T));
  }

  // --- fork: the forking thread holds `mutex()` across fork(); the child then calls ChildReset ---
  std::mutex& mutex() { return mutex_; }
  // In the child: forgets thread and callers, closes the inherited socket; `socket` may be empty.
  void ChildReset(UniqueFd socket);

 private:
  struct Pending {
    std::atomic<uint32_t> done{0};
    FdReply reply;
  };
  absl::StatusOr<FdReply> CallBytes(layout::FdHeader* message, size_t bytes,
                                    absl::Span<const int> fds, const Deadline& deadline);
  absl::Status PostBytes(layout::FdHeader* message, size_t bytes);
  absl::Status Send(const layout::FdHeader* message, size_t bytes, absl::Span<const int> fds,
                    const Deadline& deadline);
  static void* ThreadMain(void* self);
  void Run();
  bool ReceiveOne();
  void End();

  const Handlers handlers_;
  const std::atomic<uint64_t>* generation_ = nullptr;
  std::atomic<bool> alive_{false};
  std::atomic<bool> running_{false};

  std::mutex mutex_;  // guards what follows
  UniqueFd socket_;
  UniqueFd wake_;
  std::map<uint64_t, Pending*> pending_;
  uint64_t next_number_ = 1;
  pthread_t thread_{};
  std::atomic<bool> stop_{false};
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_FD_CHANNEL_H_
