// IsTenantName: what a tenant may be called: it is a folder's, a cluster's and a label's name.
//
// Threading:  any thread
// Ownership:  none
// Errors:     none
// Limits:     a-z, 0-9 and -, 1 to 63 of them, - neither first nor last
#ifndef PENSTOCK_PROTO_TENANT_NAME_H_
#define PENSTOCK_PROTO_TENANT_NAME_H_

#include <cstddef>
#include <string_view>

namespace penstock {

inline constexpr size_t kMaxTenantLetters = 63;

constexpr bool IsTenantName(std::string_view name) {
  if (name.empty() || name.size() > kMaxTenantLetters) return false;
  for (const char c : name) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-')) return false;
  }
  return name.front() != '-' && name.back() != '-';
}

}  // namespace penstock

#endif  // PENSTOCK_PROTO_TENANT_NAME_H_
