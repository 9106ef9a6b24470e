// RdmaTarget: what peers connect to in order to read and write this process's registered memory, one-sided.
//
//   auto context = OpenRdma(RdmaEnd::kOwner);        // NOT_FOUND: no RDMA device here
//   auto target = RdmaTarget::Start(*context);
//   auto block = (*target)->Register(arena, bytes);  // its key and the target's address go to trusted peers, by gRPC
//
// Threading:  any thread; one thread of its own answers those who connect, and sleeps otherwise.
// Ownership:  registered memory must stay mapped while its Registration lives.
// Errors:     as ucx/ucp_context.h and ucp_memory.h
// Limits:     no read-only keys: who has one may write, until what it is for is unregistered (takes_back)
#ifndef PENSTOCK_TRANSPORT_UCX_RDMA_TARGET_H_
#define PENSTOCK_TRANSPORT_UCX_RDMA_TARGET_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace penstock {

namespace ucx {
class UcpContext;
class UcpWorker;
}  // namespace ucx

enum class RdmaEnd {
  kReader,  // connects: an RdmaLane
  kOwner,   // is connected to: an RdmaTarget
};
// A context for RDMA devices only; NOT_FOUND when there is none. An owner's sets a variable of the environment meanwhile: nobody
// may be reading it.
absl::StatusOr<std::shared_ptr<ucx::UcpContext>> OpenRdma(RdmaEnd end);
// For tests: with these transports, whatever they are.
absl::StatusOr<std::shared_ptr<ucx::UcpContext>> OpenUcxForTest(const std::string& tls);
// Of the library that is loaded: unlike ones do not talk to each other.
std::string UcxVersion();

class RdmaTarget {
 public:
  static absl::StatusOr<std::unique_ptr<RdmaTarget>> Start(std::shared_ptr<ucx::UcpContext> context);
  ~RdmaTarget();

  struct Registration {
    std::string key;
    std::shared_ptr<const void> memory;  // unregistered when the last one goes
  };
  absl::StatusOr<Registration> Register(void* address, size_t bytes);
  const std::string& address() const { return address_; }
  // Whether a key is worth nothing once its registration is gone, whatever else of that memory is registered.
  bool takes_back() const { return takes_back_; }

 private:
  RdmaTarget(std::shared_ptr<ucx::UcpContext> context, std::unique_ptr<ucx::UcpWorker> worker, std::string address);
  void Serve();
  bool KeysDiffer();

  const std::shared_ptr<ucx::UcpContext> context_;
  const std::unique_ptr<ucx::UcpWorker> worker_;
  const std::string address_;
  bool takes_back_ = false;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_UCX_RDMA_TARGET_H_
