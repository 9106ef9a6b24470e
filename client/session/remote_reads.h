// RemoteReads: tensors of other nodes, read by this process itself into memory of its own.
//
// The node finds the tensor, pins it there for this session and hands on the grant; the bytes come straight into the caller's
// memory: by RDMA where both nodes have it (own_rdma.h), else from the other node's data port.
//
// What was read by RDMA counts only if it ended while the tensor was certainly pinned. A failed one is done again over the
// stream lane, which is used for kRdmaDown then. Runs below kLeastRdmaRun go over the stream lane anyway, whose owner packs them.
//
// Threading:  any thread, many at a time
// Ownership:  borrows the session, which it is a part of
// Errors:     those of the node and of the lanes; DEADLINE_EXCEEDED; CANCELLED
// Limits:     the lanes of peers that were read from are kept, with their idle connections; no RDMA in a forked child
#ifndef PENSTOCK_CLIENT_SESSION_REMOTE_READS_H_
#define PENSTOCK_CLIENT_SESSION_REMOTE_READS_H_

#include <atomic>
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
#include "transport/lane/granted_blocks.h"
#include "transport/lane/lane.h"

namespace penstock::client {

class Session;

class RemoteReads {
 public:
  // An operation of RDMA costs about a microsecond, however short: below this, what the owner packs comes faster.
  static constexpr uint64_t kLeastRdmaRun = 4096;
  static constexpr absl::Duration kRdmaDown = absl::Seconds(10);

  explicit RemoteReads(Session* session) : session_(session) {}

  // What to read of a tensor, and where to; nothing: it is better had by way of the node.
  struct Target {
    ByteRuns runs;
    absl::Span<char> memory;  // runs.bytes() long
  };
  using Choose = std::function<absl::StatusOr<std::optional<Target>>(const v1::TensorInfo& info)>;
  struct Options {
    uint64_t version = 0;    // 0: the present one
    bool whole = false;      // all of it is wanted
    bool rdma_only = false;  // else by way of the node
    Deadline deadline;
    std::function<bool()> cancelled;
  };
  struct Done {
    v1::TensorInfo info;
    std::string path;  // "rdma", "stream"
  };
  // Nothing: the node has it, or is to copy it. `choose` may be called twice, if the other node was restarted in the middle.
  absl::StatusOr<std::optional<Done>> Read(std::string_view name, const Options& options, const Choose& choose);

  // --- fork.cc ---
  std::mutex& mutex() { return mutex_; }
  void ChildReset();  // with the mutex: what is UCX's stays the parent's

 private:
  struct Peer {
    std::string token;
    std::shared_ptr<Lane> stream;
    std::string worker;  // what `rdma` is connected to
    std::shared_ptr<Lane> rdma;
    std::shared_ptr<GrantedBlocks> blocks;
    absl::Time rdma_down_until = absl::InfinitePast();  // MonotonicNow
  };
  struct RdmaPath {
    std::shared_ptr<Lane> lane;
    std::shared_ptr<GrantedBlocks> blocks;
  };

  absl::StatusOr<v1::OpenReadResponse> Open(std::string_view name, const Options& options, const std::string& refused_token);
  void Close(const v1::OpenReadResponse& opened);
  absl::Time CloseAndTellDeadline(v1::OpenReadResponse* opened, const Options& options);
  // By which path; none: by way of the node.
  absl::StatusOr<std::string> Move(v1::OpenReadResponse* opened, const Target& target, const Options& options);
  // False: to be read in another way.
  absl::StatusOr<bool> MoveByRdma(v1::OpenReadResponse* opened, const Target& target, const Options& options);
  absl::StatusOr<RdmaPath> RdmaPathTo(const v1::OpenReadResponse& opened);
  bool RdmaIsDown(const v1::OpenReadResponse& opened);
  void NoteRdmaFailure(const v1::OpenReadResponse& opened);
  std::shared_ptr<Lane> StreamLaneTo(const v1::OpenReadResponse& opened);

  Session* const session_;
  std::atomic<uint64_t> next_block_{1};
  std::mutex mutex_;
  std::map<std::string, Peer> peers_;  // by address
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_REMOTE_READS_H_
