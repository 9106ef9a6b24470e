// Where a store is: from what a user wrote, or from where stores are by default (API.md section 1).
//
//   for (const std::string& address : ResolveAddresses(options.address)) ...
//
// Threading:  any thread; reads the environment
// Ownership:  none
// Errors:     INVALID_ARGUMENT for an address that is neither a directory nor host:port
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
  std::string text;  // the directory, or host:port
};

// The stores to try, in order. An empty text stands for $PENSTOCK_ADDRESS, else for the default
// socket directories. A comma separates several.
absl::StatusOr<std::vector<Address>> ResolveAddresses(std::string_view text);

// The name of this program, for `penstock sessions`.
std::string ProgramName();

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_ADDRESS_H_
