// TenantsFile: who the tenants of a host are, and what their nodes are told (penstockd --tenants=FILE).
//
//   # a comment
//   [team-a]
//   user=alice            # whose node it is; only root may say this and the next
//   group=team-a          # who may use it beside her
//   --memory=2GiB         # must be said of each
//   --max_tensors=100000
//
// Threading:  any thread
// Ownership:  plain values
// Errors:     INVALID_ARGUMENT with file, line, what is wrong and what to write
// Limits:     1 MiB; 256 tenants
#ifndef PENSTOCK_SERVER_PENSTOCKD_TENANTS_FILE_H_
#define PENSTOCK_SERVER_PENSTOCKD_TENANTS_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/memory_limit.h"

namespace penstock::server {

struct TenantSpec {
  std::string name;
  std::string user, group;         // empty: who runs the supervisor
  std::vector<std::string> flags;  // "--memory=2GiB"
  std::string memory;              // of them
  bool has_mode = false;           // --socket_mode is among them
  friend bool operator==(const TenantSpec&, const TenantSpec&) = default;
};

// In the order of their names.
absl::StatusOr<std::vector<TenantSpec>> ReadTenantsFile(const std::string& path);
absl::StatusOr<std::vector<TenantSpec>> ParseTenants(const std::string& text, const std::string& path);

// Nobody lends another memory, so all together must fit.
absl::Status CheckMemory(const std::vector<TenantSpec>& tenants, const MemoryLimit& limit);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_TENANTS_FILE_H_
