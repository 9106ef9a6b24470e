// UcpContext: one opening of UCX, and which transports it may use.
//
// UCX's tcp transport lets whoever reaches its port write any address of the process, so a context never opens it unless
// told to by `tls`; what UCX_TLS in the environment says counts only as far as it names RDMA transports.
//
// Threading:  any thread
// Ownership:  everything made from it keeps it alive (shared_ptr)
// Errors:     NOT_FOUND no device of these transports; INTERNAL what UCX says
// Limits:     features: RMA and wake-up
// Source:     openucx/ucx src/ucp/api/ucp.h, 1.13
#ifndef PENSTOCK_TRANSPORT_UCX_UCP_CONTEXT_H_
#define PENSTOCK_TRANSPORT_UCX_UCP_CONTEXT_H_

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock::ucx {

absl::Status UcsError(ucs_status_t status, std::string_view what);

class UcpContext {
 public:
  struct Setting {
    const char* name;   // as UCX's variable, without UCX_
    const char* value;
    bool always;        // whatever the environment says; else it goes before
    bool required = false;  // an error if this UCX does not take it; else it is passed over
  };
  // `features`: UCP_FEATURE_*; wake-ups are always one.
  static absl::StatusOr<std::shared_ptr<UcpContext>> Open(const std::string& tls, absl::Span<const Setting> settings = {},
                                                          uint64_t features = UCP_FEATURE_RMA);
  ~UcpContext() { ucp_cleanup(handle_); }
  UcpContext(const UcpContext&) = delete;
  UcpContext& operator=(const UcpContext&) = delete;

  ucp_context_h handle() const { return handle_; }

 private:
  explicit UcpContext(ucp_context_h handle) : handle_(handle) {}
  const ucp_context_h handle_;
};

}  // namespace penstock::ucx

#endif  // PENSTOCK_TRANSPORT_UCX_UCP_CONTEXT_H_
