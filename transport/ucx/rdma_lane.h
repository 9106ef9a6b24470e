// RdmaLane: reads and writes blocks of another process one-sided: its CPU takes no part, it may even be stopped.
//
// Whoever has a block's key can read and write all that was registered with it, so keys go to trusted peers only; which
// grant may be used for what is decided on this side, from what the owner said when it gave the grant out.
//
// Threading:  Run: any thread, many at a time; each has a connection of its own while it runs. The threads that wait make the
//             progress: there is no thread of the lane's.
// Ownership:  as Lane. On a deadline or cancel the connection is closed by force, and Run returns when UCX has let go of the
//             memory.
// Errors:     as Lane; PERMISSION_DENIED is what `locate` says. A connect to a peer that does not answer ends at the deadline only,
//             so ask it by other means before you try again.
// Limits:     kWindow operations of kPieceBytes in flight a Run; runs of a few bytes cost an operation each
#ifndef PENSTOCK_TRANSPORT_UCX_RDMA_LANE_H_
#define PENSTOCK_TRANSPORT_UCX_RDMA_LANE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/lane/granted_blocks.h"
#include "transport/lane/lane.h"

namespace penstock {

namespace ucx {
class UcpContext;
}

struct RdmaLaneOptions {
  // RdmaTarget::address of the peer, as it is now; asked for when a connection is made.
  std::function<absl::StatusOr<std::string>()> peer;
  std::function<absl::StatusOr<RemoteBlock>(uint64_t grant, TransferKind kind)> locate;
};

class RdmaLane final : public Lane {
 public:
  static constexpr size_t kWindow = 64;
  static constexpr uint64_t kPieceBytes = uint64_t{4} << 20;

  static absl::StatusOr<std::unique_ptr<RdmaLane>> Create(std::shared_ptr<ucx::UcpContext> context, RdmaLaneOptions options);
  ~RdmaLane() override;

  std::string_view name() const override { return "rdma"; }
  void Run(absl::Span<Transfer> transfers, const RunOptions& options) override;

 private:
  class Connections;
  class Work;
  RdmaLane(std::unique_ptr<Connections> connections, RdmaLaneOptions options);

  const RdmaLaneOptions options_;
  const std::unique_ptr<Connections> connections_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_UCX_RDMA_LANE_H_
