// UcpWorker: a place where operations make progress, with an address that others connect to.
//
// Threading:  one thread at a time (SERIALIZED), but Signal: any thread
// Ownership:  keeps its context
// Errors:     INTERNAL what UCX says
// Limits:     Wait may miss a wake-up on rc: its timeout is the bound
#ifndef PENSTOCK_TRANSPORT_UCX_UCP_WORKER_H_
#define PENSTOCK_TRANSPORT_UCX_UCP_WORKER_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "transport/ucx/ucp_context.h"

namespace penstock::ucx {

class UcpWorker {
 public:
  static absl::StatusOr<std::unique_ptr<UcpWorker>> Create(std::shared_ptr<UcpContext> context);
  ~UcpWorker();
  UcpWorker(const UcpWorker&) = delete;
  UcpWorker& operator=(const UcpWorker&) = delete;

  bool Progress() { return ucp_worker_progress(handle_) != 0; }  // whether anything happened
  // Whether it is right to wait now: false means that there is something to progress.
  bool Arm() { return ucp_worker_arm(handle_) == UCS_OK; }
  // After Arm; needs no exclusion.
  void Wait(absl::Duration longest) const;
  void Signal() { ucp_worker_signal(handle_); }

  // Who is told of the active messages with this number, within Progress.
  absl::Status OnActiveMessage(unsigned id, ucp_am_recv_callback_t callback, void* argument);

  // What a peer needs to connect; bytes.
  absl::StatusOr<std::string> Address() const;
  ucp_worker_h handle() const { return handle_; }
  const std::shared_ptr<UcpContext>& context() const { return context_; }

 private:
  UcpWorker(std::shared_ptr<UcpContext> context, ucp_worker_h handle) : context_(std::move(context)), handle_(handle) {}
  const std::shared_ptr<UcpContext> context_;
  const ucp_worker_h handle_;
  int event_fd_ = -1;  // UCX's
};

}  // namespace penstock::ucx

#endif  // PENSTOCK_TRANSPORT_UCX_UCP_WORKER_H_
