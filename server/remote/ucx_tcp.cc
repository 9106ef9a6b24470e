#include "server/remote/ucx_tcp.h"

#include <utility>

#include "transport/ucx/rdma_target.h"
#include "transport/ucx/ucx_tcp_lane.h"
#include "transport/ucx/ucx_tcp_target.h"

namespace penstock::server {

UcxTcp::UcxTcp(std::shared_ptr<ucx::UcpContext> context, std::unique_ptr<UcxTcpTarget> target)
    : context_(std::move(context)), target_(std::move(target)) {}

#ifdef PENSTOCK_HAS_UCX

absl::StatusOr<std::unique_ptr<UcxTcp>> UcxTcp::Open(const std::string& host, GrantTable* grants) {
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = OpenUcxTcp(host);
  if (!context.ok()) return context.status();
  absl::StatusOr<std::unique_ptr<UcxTcpTarget>> target = UcxTcpTarget::Start(*context, grants);
  if (!target.ok()) return target.status();
  return std::unique_ptr<UcxTcp>(new UcxTcp(*std::move(context), *std::move(target)));
}
UcxTcp::~UcxTcp() = default;
const std::string& UcxTcp::worker() const { return target_->address(); }
std::string UcxTcp::version() { return UcxVersion(); }
std::unique_ptr<Lane> UcxTcp::NewLane(std::string worker, const LaneToken& token) const {
  return UcxTcpLane::Create(context_, {.peer = [worker = std::move(worker)] { return worker; }, .token = token});
}

#else

absl::StatusOr<std::unique_ptr<UcxTcp>> UcxTcp::Open(const std::string&, GrantTable*) { return absl::UnimplementedError("built without UCX"); }
UcxTcp::~UcxTcp() = default;
const std::string& UcxTcp::worker() const {
  static const std::string none;
  return none;
}
std::string UcxTcp::version() { return {}; }
std::unique_ptr<Lane> UcxTcp::NewLane(std::string, const LaneToken&) const { return nullptr; }

#endif

}  // namespace penstock::server
