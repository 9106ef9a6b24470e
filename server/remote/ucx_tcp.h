// UcxTcp: both sides of the ucx-tcp lane of this node, where an operator asked for it (--ucx_tcp=on).
//
// Threading:  any thread
// Ownership:  the grants must outlive it; lanes keep what they need
// Errors:     Open: UNIMPLEMENTED built without UCX; else those of transport/ucx/ucx_tcp_target.h
// Limits:     its port lets whoever reaches it write any address of this process (transport/ucx/ucx_tcp_target.h)
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "transport/lane/lane.h"

namespace penstock {
class UcxTcpTarget;
namespace ucx {
class UcpContext;
}
}  // namespace penstock

namespace penstock::server {

class UcxTcp {
 public:
  // On the device that has the address `host`.
  static absl::StatusOr<std::unique_ptr<UcxTcp>> Open(const std::string& host, GrantTable* grants);
  ~UcxTcp();

  const std::string& worker() const;  // what peers connect to
  static std::string version();       // of UCX: unlike ones do not talk to each other
  std::unique_ptr<Lane> NewLane(std::string worker, const LaneToken& token) const;

 private:
  UcxTcp(std::shared_ptr<ucx::UcpContext> context, std::unique_ptr<UcxTcpTarget> target);
  const std::shared_ptr<ucx::UcpContext> context_;
  const std::unique_ptr<UcxTcpTarget> target_;
};

}  // namespace penstock::server
