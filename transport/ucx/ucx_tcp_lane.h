// UcxTcpLane: reads and writes blocks of another process over UCX's tcp transport (ucx_tcp_target.h says when).
//
// Threading:  Run: any thread, many at a time; all share one connection, and the threads that wait make its progress.
// Ownership:  as Lane. UCX never sees the caller's memory: what arrives is copied into it by a thread that is in Run, what is written
//             is copied before it is sent. So nothing can be touched after Run, whatever happens to the connection.
// Errors:     as Lane
// Limits:     kWindow chunks of ucx::kChunkBytes in flight a Run; UCX of one and the same version at both ends
#ifndef PENSTOCK_TRANSPORT_UCX_UCX_TCP_LANE_H_
#define PENSTOCK_TRANSPORT_UCX_UCX_TCP_LANE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/lane/lane.h"

namespace penstock {

namespace ucx {
class UcpContext;
}

struct UcxTcpLaneOptions {
  // UcxTcpTarget::address of the peer, as it is now; asked for when a connection is made.
  std::function<absl::StatusOr<std::string>()> peer;
  LaneToken token{};
};

class UcxTcpLane final : public Lane {
 public:
  static constexpr size_t kWindow = 32;

  static std::unique_ptr<UcxTcpLane> Create(std::shared_ptr<ucx::UcpContext> context, UcxTcpLaneOptions options);
  ~UcxTcpLane() override;

  std::string_view name() const override { return "ucx-tcp"; }
  void Run(absl::Span<Transfer> transfers, const RunOptions& options) override;

 private:
  class Channel;
  class Work;
  UcxTcpLane(std::unique_ptr<Channel> channel, UcxTcpLaneOptions options);

  const UcxTcpLaneOptions options_;
  const std::unique_ptr<Channel> channel_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_UCX_UCX_TCP_LANE_H_
