// RunTenants: penstockd --tenants=FILE, which starts a node (warden and node process) for each tenant and keeps them going.
//
// A tenant shares nothing with another but the host: a catalog, memory, sockets, ports and a cluster of its own, in processes of its
// own. So none can read, evict or starve another, and this process has no part in what they do.
//
//   a tenant's penstockd ends    started again, after 0.1 s, then later and later, up to 30 s; its memory is gone, which is said
//   SIGHUP                       the file is read again: new tenants are started, those that are gone are stopped, changed ones go on as
//                                they are until they are started the next time (kill -TERM of their warden). A bad file changes nothing
//   SIGTERM, SIGINT              all are stopped
//   this process dies            each stops by itself
//
// Threading:  call it from a process with one thread; it returns when all is over
// Ownership:  the tenants' processes are its children
// Errors:     exit codes: 0 stopped as asked, 2 a bad file, else 1
// Limits:     those of TenantsFile
#ifndef PENSTOCK_SERVER_PENSTOCKD_TENANT_SUPERVISOR_H_
#define PENSTOCK_SERVER_PENSTOCKD_TENANT_SUPERVISOR_H_

#include <string>
#include <vector>

#include "server/penstockd/config.h"

namespace penstock::server {

// `arguments`: of this process, without argv[0].
int RunTenants(const NodeConfig& config, const std::vector<std::string>& arguments);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_TENANT_SUPERVISOR_H_
