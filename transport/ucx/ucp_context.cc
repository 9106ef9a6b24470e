#include "transport/ucx/ucp_context.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace penstock::ucx {

absl::Status UcsError(ucs_status_t status, std::string_view what) {
  const std::string text = absl::StrCat("UCX: ", absl::string_view(what.data(), what.size()), ": ", ucs_status_string(status));
  switch (status) {
    case UCS_OK: return absl::OkStatus();
    case UCS_ERR_NO_DEVICE:
    case UCS_ERR_NO_RESOURCE: return absl::NotFoundError(text);
    case UCS_ERR_NO_MEMORY: return absl::ResourceExhaustedError(text);
    case UCS_ERR_CANCELED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_REJECTED:
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_UNREACHABLE: return absl::UnavailableError(text);
    default: return absl::InternalError(text);
  }
}

absl::StatusOr<std::shared_ptr<UcpContext>> UcpContext::Open(const std::string& tls, absl::Span<const Setting> settings,
                                                                 uint64_t features) {
  ucp_config_t* config = nullptr;
  if (ucs_status_t s = ucp_config_read(nullptr, nullptr, &config); s != UCS_OK) return UcsError(s, "ucp_config_read");
  ucs_status_t status = ucp_config_modify(config, "TLS", tls.c_str());
  for (const Setting& setting : settings) {
    if (!setting.always && std::getenv(absl::StrCat("UCX_", setting.name).c_str()) != nullptr) continue;
    const ucs_status_t set = ucp_config_modify(config, setting.name, setting.value);
    if (set != UCS_OK && setting.required && status == UCS_OK) status = set;
  }
  ucp_context_h handle = nullptr;
  if (status == UCS_OK) {
    ucp_params_t params{};
    params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME;
    params.features = features | UCP_FEATURE_WAKEUP;
    params.mt_workers_shared = 1;
    params.name = "penstock";
    status = ucp_init(&params, config, &handle);
  }
  ucp_config_release(config);
  if (status != UCS_OK) return UcsError(status, absl::StrCat("ucp_init with UCX_TLS=", tls));
  return std::shared_ptr<UcpContext>(new UcpContext(handle));
}

}  // namespace penstock::ucx
