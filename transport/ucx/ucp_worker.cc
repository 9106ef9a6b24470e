#include "transport/ucx/ucp_worker.h"

#include <poll.h>

#include <algorithm>

namespace penstock::ucx {

absl::StatusOr<std::unique_ptr<UcpWorker>> UcpWorker::Create(std::shared_ptr<UcpContext> context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h handle = nullptr;
  if (ucs_status_t s = ucp_worker_create(context->handle(), &params, &handle); s != UCS_OK) return UcsError(s, "ucp_worker_create");
  std::unique_ptr<UcpWorker> worker(new UcpWorker(std::move(context), handle));
  if (ucs_status_t s = ucp_worker_get_efd(handle, &worker->event_fd_); s != UCS_OK) return UcsError(s, "ucp_worker_get_efd");
  return worker;
}

UcpWorker::~UcpWorker() { ucp_worker_destroy(handle_); }

void UcpWorker::Wait(absl::Duration longest) const {
  pollfd entry{event_fd_, POLLIN, 0};
  (void)poll(&entry, 1, static_cast<int>(std::max<int64_t>(1, absl::ToInt64Milliseconds(longest))));
}

absl::Status UcpWorker::OnActiveMessage(unsigned id, ucp_am_recv_callback_t callback, void* argument) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = id;
  params.flags = UCP_AM_FLAG_WHOLE_MSG;
  params.cb = callback;
  params.arg = argument;
  return UcsError(ucp_worker_set_am_recv_handler(handle_, &params), "ucp_worker_set_am_recv_handler");
}

absl::StatusOr<std::string> UcpWorker::Address() const {
  ucp_address_t* address = nullptr;
  size_t size = 0;
  if (ucs_status_t s = ucp_worker_get_address(handle_, &address, &size); s != UCS_OK) return UcsError(s, "ucp_worker_get_address");
  std::string bytes(reinterpret_cast<const char*>(address), size);
  ucp_worker_release_address(handle_, address);
  return bytes;
}

}  // namespace penstock::ucx
