// StreamLane: the lane over TCP to one peer; the client side of StreamServer.
//
// The calling thread moves the bytes itself: no hand-over, and nothing runs while nobody waits. Large transfers are cut in
// chunks that several connections share, each with a thread while the call lasts; idle connections are kept for the next.
//
// Threading:  any thread; each Run has connections of its own while it lasts.
// Ownership:  owns its connections. Memory is not touched after Run, for a connection that is given up is closed first.
// Errors:     as Lane; a connection that is lost is tried again once per chunk (reads and writes of a granted block can
//             be repeated), with UNAVAILABLE after that.
// Limits:     `streams` connections a Run, at most kMaxIdle kept; a forked child begins with none.
#ifndef PENSTOCK_TRANSPORT_STREAM_STREAM_LANE_H_
#define PENSTOCK_TRANSPORT_STREAM_STREAM_LANE_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "transport/lane/lane.h"

namespace penstock {

namespace stream {
class ClientChannel;
}

struct StreamLaneOptions {
  std::string address;  // "host:port" of the peer's data port
  LaneToken token{};
  int streams = 2;
  bool tls = false;  // as the peer's data port has it
};

class StreamLane final : public Lane {
 public:
  explicit StreamLane(StreamLaneOptions options);
  ~StreamLane() override;

  std::string_view name() const override { return "stream"; }
  void Run(absl::Span<Transfer> transfers, const RunOptions& options) override;

 private:
  class Work;
  static constexpr size_t kMaxIdle = 8;

  absl::StatusOr<std::unique_ptr<stream::ClientChannel>> Take();  // an idle one, or a new one
  void GiveBack(std::unique_ptr<stream::ClientChannel> channel);

  const StreamLaneOptions options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<stream::ClientChannel>> idle_ ABSL_GUARDED_BY(mutex_);
  int owner_pid_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_STREAM_STREAM_LANE_H_
