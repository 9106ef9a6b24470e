// RemoteReads: tensors of other nodes, read by this process itself into memory of its own.
//
// The node finds the tensor, pins it there for this session and hands on the grant; the bytes come from the other node's
// data port straight into the caller's memory.
//
// Threading:  any thread, many at a time
// Ownership:  borrows the session, which it is a part of
// Errors:     those of the node and of the lane; DEADLINE_EXCEEDED; CANCELLED
// Limits:     the stream lane only; the lanes of peers that were read from are kept, with their idle connections
#ifndef PENSTOCK_CLIENT_SESSION_REMOTE_READS_H_
#define PENSTOCK_CLIENT_SESSION_REMOTE_READS_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/session/deadline.h"
#include "store.pb.h"
#include "transport/stream/stream_lane.h"

namespace penstock::client {

class Session;

class RemoteReads {
 public:
  explicit RemoteReads(Session* session) : session_(session) {}

  // What to read of a tensor, and where to; nothing: it is better had by way of the node.
  struct Target {
    ByteRuns runs;
    absl::Span<char> memory;  // runs.bytes() long
  };
  using Choose = std::function<absl::StatusOr<std::optional<Target>>(const v1::TensorInfo& info)>;
  struct Options {
    uint64_t version = 0;  // 0: the present one
    bool whole = false;    // all of it is wanted
    Deadline deadline;
    std::function<bool()> cancelled;
  };
  // Nothing: the node has it, or is to copy it. `choose` may be called twice, if the other node was restarted in the middle.
  absl::StatusOr<std::optional<v1::TensorInfo>> Read(std::string_view name, const Options& options, const Choose& choose);

  std::mutex& mutex() { return mutex_; }  // for fork.cc

 private:
  absl::StatusOr<v1::OpenReadResponse> Open(std::string_view name, const Options& options, const std::string& refused_token);
  void Close(const v1::OpenReadResponse& opened);
  absl::Status Move(const v1::OpenReadResponse& opened, const Target& target, const Options& options);
  std::shared_ptr<StreamLane> LaneOf(const v1::OpenReadResponse& opened);

  Session* const session_;
  std::mutex mutex_;
  std::map<std::string, std::pair<std::string, std::shared_ptr<StreamLane>>> lanes_;  // by address: token, lane
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_REMOTE_READS_H_
