// UcpEndpoint: a connection to a peer's worker, and the operations on it.
//
// In peer error mode: a peer that dies ends what is under way with an error. A peer that merely stops does not; its own
// deadline is the caller's business, and Close(kForce) is how it ends what it gave up.
//
// Threading:  as its worker's: one thread at a time
// Ownership:  the worker must outlive it; memory of an operation must stay until its UcpRequest is done
// Errors:     UNAVAILABLE the peer is gone; INTERNAL what UCX says
// Limits:     a failed endpoint stays failed: make another one
#ifndef PENSTOCK_TRANSPORT_UCX_UCP_ENDPOINT_H_
#define PENSTOCK_TRANSPORT_UCX_UCP_ENDPOINT_H_

#include <memory>
#include <string>
#include <utility>

#include "transport/ucx/ucp_worker.h"

namespace penstock::ucx {

// An operation that has begun. To be asked until it is done; must be done before it is destroyed.
class UcpRequest {
 public:
  UcpRequest() = default;
  explicit UcpRequest(ucs_status_ptr_t pointer) : pointer_(pointer) {}
  UcpRequest(UcpRequest&& other) noexcept : pointer_(std::exchange(other.pointer_, nullptr)) {}
  UcpRequest& operator=(UcpRequest&& other) noexcept {
    std::swap(pointer_, other.pointer_);
    return *this;
  }
  ~UcpRequest() {
    if (UCS_PTR_IS_PTR(pointer_)) ucp_request_free(pointer_);
  }
  ucs_status_t Check() const {
    if (pointer_ == nullptr) return UCS_OK;
    return UCS_PTR_IS_ERR(pointer_) ? UCS_PTR_STATUS(pointer_) : ucp_request_check_status(pointer_);
  }

 private:
  ucs_status_ptr_t pointer_ = nullptr;
};

// A peer's key, as an endpoint uses it. The endpoint must outlive it.
class UcpRemoteKey {
 public:
  UcpRemoteKey(UcpRemoteKey&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  UcpRemoteKey& operator=(UcpRemoteKey&&) = delete;
  ~UcpRemoteKey() {
    if (handle_ != nullptr) ucp_rkey_destroy(handle_);
  }
  ucp_rkey_h handle() const { return handle_; }

 private:
  friend class UcpEndpoint;
  explicit UcpRemoteKey(ucp_rkey_h handle) : handle_(handle) {}
  ucp_rkey_h handle_;
};

class UcpEndpoint {
 public:
  static absl::StatusOr<std::unique_ptr<UcpEndpoint>> Connect(UcpWorker* worker, const std::string& address);
  ~UcpEndpoint();  // closed before, or with force now
  UcpEndpoint(const UcpEndpoint&) = delete;
  UcpEndpoint& operator=(const UcpEndpoint&) = delete;

  absl::StatusOr<UcpRemoteKey> Unpack(const std::string& key);
  // Done: the bytes are here.
  UcpRequest Get(void* to, size_t bytes, uint64_t from, const UcpRemoteKey& key);
  // Done: `from` may be reused; visible there after a Flush.
  UcpRequest Put(const void* from, size_t bytes, uint64_t to, const UcpRemoteKey& key);
  UcpRequest Flush();
  // An active message that is sent at once, whoever waits for it; done: header and data may be reused.
  UcpRequest SendMessage(unsigned id, absl::Span<const char> header, absl::Span<const char> data);
  // Ends everything that is under way, soon and with an error. No operation may follow.
  void ForceClose();

  bool failed() const { return failure_ != UCS_OK; }
  absl::Status failure() const { return UcsError(failure_, "endpoint"); }

 private:
  explicit UcpEndpoint(UcpWorker* worker) : worker_(worker) {}
  static void OnError(void* self, ucp_ep_h endpoint, ucs_status_t status);

  UcpWorker* const worker_;
  ucp_ep_h handle_ = nullptr;
  UcpRequest closing_;
  bool closed_ = false;
  ucs_status_t failure_ = UCS_OK;
};

}  // namespace penstock::ucx

#endif  // PENSTOCK_TRANSPORT_UCX_UCP_ENDPOINT_H_
