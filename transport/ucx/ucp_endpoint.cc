#include "transport/ucx/ucp_endpoint.h"

#include "transport/monotonic.h"

namespace penstock::ucx {

namespace {
constexpr absl::Duration kCloseWait = absl::Seconds(5);
}  // namespace

absl::StatusOr<std::unique_ptr<UcpEndpoint>> UcpEndpoint::Connect(UcpWorker* worker, const std::string& address) {
  std::unique_ptr<UcpEndpoint> endpoint(new UcpEndpoint(worker));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {&UcpEndpoint::OnError, endpoint.get()};
  if (ucs_status_t s = ucp_ep_create(worker->handle(), &params, &endpoint->handle_); s != UCS_OK) return UcsError(s, "ucp_ep_create");
  return endpoint;
}

UcpEndpoint::~UcpEndpoint() {
  if (handle_ == nullptr) return;
  ForceClose();
  const absl::Time deadline = MonotonicNow() + kCloseWait;
  while (closing_.Check() == UCS_INPROGRESS && MonotonicNow() < deadline) worker_->Progress();
}

void UcpEndpoint::OnError(void* self, ucp_ep_h, ucs_status_t status) { static_cast<UcpEndpoint*>(self)->failure_ = status; }

absl::StatusOr<UcpRemoteKey> UcpEndpoint::Unpack(const std::string& key) {
  ucp_rkey_h handle = nullptr;
  if (ucs_status_t s = ucp_ep_rkey_unpack(handle_, key.data(), &handle); s != UCS_OK) return UcsError(s, "ucp_ep_rkey_unpack");
  return UcpRemoteKey(handle);
}

UcpRequest UcpEndpoint::Get(void* to, size_t bytes, uint64_t from, const UcpRemoteKey& key) {
  const ucp_request_param_t params{};
  return UcpRequest(ucp_get_nbx(handle_, to, bytes, from, key.handle(), &params));
}

UcpRequest UcpEndpoint::Put(const void* from, size_t bytes, uint64_t to, const UcpRemoteKey& key) {
  const ucp_request_param_t params{};
  return UcpRequest(ucp_put_nbx(handle_, from, bytes, to, key.handle(), &params));
}

UcpRequest UcpEndpoint::Flush() {
  const ucp_request_param_t params{};
  return UcpRequest(ucp_ep_flush_nbx(handle_, &params));
}

UcpRequest UcpEndpoint::SendMessage(unsigned id, absl::Span<const char> header, absl::Span<const char> data) {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  return UcpRequest(ucp_am_send_nbx(handle_, id, header.data(), header.size(), data.data(), data.size(), &params));
}

void UcpEndpoint::ForceClose() {
  if (std::exchange(closed_, true)) return;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  closing_ = UcpRequest(ucp_ep_close_nbx(handle_, &params));
}

}  // namespace penstock::ucx
