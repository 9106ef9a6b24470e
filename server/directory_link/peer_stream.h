// PeerStream: one of the streams on which this node tells a peer its directory messages (DirectoryLink has two for each).
//
// It is one gRPC call of service Directory, on a channel of its own, which goes with it: so it alone decides when to try again.
// The peer answers the hello; from then on what is queued is written, one batch at a time.
//
// Threading:  any thread. `wake` is called with its lock held, and not after Stop.
// Ownership:  held by shared_ptr: its call keeps it until it has ended
// Errors:     none; error() tells why it is not connected
// Limits:     directory_link.h. Writing a batch copies it with the lock held: at most 1 MiB, or one message
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "directory.pb.h"
#include "server/directory_link/link_counters.h"

namespace grpc {
class ChannelCredentials;
}

namespace penstock::server {

class PeerStream : public std::enable_shared_from_this<PeerStream> {
 public:
  static constexpr absl::Duration kFirstRetry = absl::Milliseconds(10);
  static constexpr absl::Duration kLongestRetry = absl::Seconds(1);
  static constexpr absl::Duration kConnectPatience = absl::Seconds(1);
  static constexpr absl::Duration kKeepAlive = absl::Seconds(1);  // asks after so much silence, and waits as long for the answer
  static constexpr absl::Duration kOld = absl::Seconds(2);
  static constexpr size_t kBatchBytes = size_t{1} << 20;

  struct Options {
    std::string address;
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    v1::directory::Hello hello;
    size_t queue_bytes = 0;
    std::shared_ptr<LinkCounters> counters;
    std::function<void()> wake;  // ConnectIfDue has something to do
  };
  explicit PeerStream(Options options) : options_(std::move(options)) {}

  void Send(std::string message);  // encoded
  // Opens the stream if it is wanted, and it is time. When to come again; InfiniteFuture: when woken. One thread at a time.
  absl::Time ConnectIfDue(absl::Time now);

  bool connected() const;
  uint64_t session() const;  // of the peer, as it said last; 0: it never did
  uint64_t queued_bytes() const;
  std::string error() const;

  void Stop();      // what is queued is dropped
  void AwaitEnd();  // of its call, after Stop

 private:
  class Call;
  struct Queued {
    std::string bytes;
    absl::Time at;  // MonotonicNow
  };
  static constexpr size_t kPerMessage = 64;  // beyond its bytes

  // By the call, on gRPC's threads, in this order.
  void OnAccepted(uint64_t session);
  void OnWritten(bool ok);
  void OnBroken();  // nothing must be written any more
  void OnGone();    // nor the call be touched
  void OnEnded(std::string why);

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropOld(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;

  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;      // there is a call, or what is left of it
  Call* call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // deletes itself
  bool accepted_ ABSL_GUARDED_BY(mutex_) = false;  // and not broken since: may be written to
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;   // the call has a write that is not done
  size_t batch_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of that
  uint64_t session_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t times_accepted_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration backoff_ ABSL_GUARDED_BY(mutex_) = kFirstRetry;
  absl::Time retry_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
  std::string error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
