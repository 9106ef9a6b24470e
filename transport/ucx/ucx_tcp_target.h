// UcxTcpTarget: the owner's side of the ucx-tcp lane: serves granted blocks to readers on other hosts over UCX's tcp transport.
//
// Only for operators who ask for it, on networks that they trust: the port that UCX opens lets whoever reaches it write any address
// of this process, whatever is checked here (UCX executes what a packet says). The stream lane needs no such trust, and is faster.
//
//   auto context = OpenUcxTcp("10.0.0.1");
//   auto target = UcxTcpTarget::Start(*context, &grants);   // its address goes to readers, by gRPC
//
// Threading:  any thread; one thread of its own serves, and sleeps otherwise. GrantTable is called on it.
// Ownership:  the grants must outlive it. A granted block is held until its last byte was handed to UCX's connection.
// Errors:     as ucx/ucp_context.h; NOT_FOUND: this UCX has no tcp, or no device carries the address
// Limits:     kMaxReaders at a time
#ifndef PENSTOCK_TRANSPORT_UCX_UCX_TCP_TARGET_H_
#define PENSTOCK_TRANSPORT_UCX_UCX_TCP_TARGET_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "transport/lane/lane.h"

namespace penstock {

namespace ucx {
class UcpContext;
}

// A context for active messages over tcp, on the device that has this address; empty, or of any address: on all of them.
absl::StatusOr<std::shared_ptr<ucx::UcpContext>> OpenUcxTcp(const std::string& host);

class UcxTcpTarget {
 public:
  static constexpr size_t kMaxReaders = 1024;

  static absl::StatusOr<std::unique_ptr<UcxTcpTarget>> Start(std::shared_ptr<ucx::UcpContext> context, GrantTable* grants);
  ~UcxTcpTarget();

  const std::string& address() const { return address_; }

 private:
  class Service;
  UcxTcpTarget(std::unique_ptr<Service> service, std::string address);
  void Serve();

  const std::unique_ptr<Service> service_;
  const std::string address_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_UCX_UCX_TCP_TARGET_H_
