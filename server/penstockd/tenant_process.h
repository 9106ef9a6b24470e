// TenantProcess: the penstockd of one tenant, a child of the supervisor (tenant_supervisor.h).
//
// Threading:  one thread at a time; Start from a process with one thread
// Ownership:  owns descriptors; the child is ended by Stop, or with its parent (--exit_with_parent)
// Errors:     Start: INVALID_ARGUMENT (no such user or group, or not root), what the folder's system calls say
// Limits:     none
#ifndef PENSTOCK_SERVER_PENSTOCKD_TENANT_PROCESS_H_
#define PENSTOCK_SERVER_PENSTOCKD_TENANT_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/penstockd/tenants_file.h"
#include "transport/unique_fd.h"

namespace penstock::server {

// What all tenants have in common.
struct TenantHost {
  std::string program;                 // penstockd
  std::string socket_dir;              // each tenant's is below it
  std::string cluster;                 // "penstock"; each tenant's has its name behind it
  std::vector<std::string> arguments;  // of the supervisor itself; a tenant's own flags win
};

// Whether the users and groups of the file exist, and may be taken on. Before anything is started or changed.
absl::Status CheckIdentity(const TenantSpec& tenant);

struct TenantProcess {
  pid_t pid = -1;
  UniqueFd ready;  // a line comes when it serves
};

// Makes the tenant's folder, which only its user and group may enter, and starts its penstockd as them.
absl::StatusOr<TenantProcess> StartTenant(const TenantHost& host, const TenantSpec& tenant);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_TENANT_PROCESS_H_
