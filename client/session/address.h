// Where a store is: from what a user wrote, or from where stores are by default (API.md section 1).
//
//   for (const std::string& address : ResolveAddresses(options.address)) ...
//
// Threading:  any thread; reads the environment
// Ownership:  none
// Errors:     INVALID_ARGUMENT for an address that is neither a directory nor host:port, and for a tenant that is no name or stands
//             beside host:port
// Limits:     the only place of the client that reads environment variables
#ifndef PENSTOCK_CLIENT_SESSION_ADDRESS_H_
#define PENSTOCK_CLIENT_SESSION_ADDRESS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace penstock::client {

struct Address {
  bool is_socket_dir = true;
  std::string text;    // the directory (with a tenant: the tenant's, below the one that was given), or host:port
  std::string tenant{};  // empty: none was asked for
};

// The stores to try, in order. An empty text stands for $PENSTOCK_ADDRESS, else for the default
// socket directories; with it $PENSTOCK_TENANT counts, if `tenant` is empty. A comma separates several.
absl::StatusOr<std::vector<Address>> ResolveAddresses(std::string_view text, std::string_view tenant = {});

// The tenants that have a folder in a socket directory, in order; none if it cannot be read.
std::vector<std::string> TenantsIn(const std::string& socket_dir);

// The name of this program, for `penstock sessions`.
std::string ProgramName();

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_ADDRESS_H_
