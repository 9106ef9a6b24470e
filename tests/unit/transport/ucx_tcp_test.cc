// The lane over UCX's tcp transport, on loopback.
#include <gtest/gtest.h>

#include "tests/unit/transport/lane_conformance.h"
#include "transport/ucx/ucx_tcp_lane.h"
#include "transport/ucx/ucx_tcp_target.h"

namespace penstock {
namespace {

class UcxTcpPair final : public LanePair {
 public:
  UcxTcpPair() { StartTarget(); }
  std::unique_ptr<Lane> NewLane(const LaneToken& token) override {
    return UcxTcpLane::Create(mine_, {.peer = [this] { return PeerAddress(); }, .token = token});
  }
  void StopTarget() override {
    std::lock_guard lock(mutex_);
    target_.reset();
  }
  void StartTarget() override {
    std::lock_guard lock(mutex_);
    target_ = UcxTcpTarget::Start(theirs_, &grants_).value();
  }

 private:
  absl::StatusOr<std::string> PeerAddress() {
    std::lock_guard lock(mutex_);
    if (target_ == nullptr) return absl::UnavailableError("no target");
    return target_->address();
  }
  const std::shared_ptr<ucx::UcpContext> mine_ = OpenUcxTcp("127.0.0.1").value();
  const std::shared_ptr<ucx::UcpContext> theirs_ = OpenUcxTcp("127.0.0.1").value();
  std::mutex mutex_;
  std::unique_ptr<UcxTcpTarget> target_;
};

INSTANTIATE_TEST_SUITE_P(UcxTcp, LaneConformance,
                         ::testing::Values(+[]() -> std::unique_ptr<LanePair> { return std::make_unique<UcxTcpPair>(); }));

}  // namespace
}  // namespace penstock
