// AskRemoteNode: what a node says about itself over gRPC, for addresses of the form host:port.
//
// gRPC is needed for this alone, and loading it costs every process more than all the rest of the
// client: it lives in a library of its own that is loaded when such an address is used.
//
// Threading:  any thread
// Ownership:  the library stays loaded
// Errors:     UNAVAILABLE (nobody there), UNIMPLEMENTED (the library is not installed)
// Limits:     one gRPC connection, closed again
#ifndef PENSTOCK_CLIENT_SESSION_REMOTE_ADDRESS_H_
#define PENSTOCK_CLIENT_SESSION_REMOTE_ADDRESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/include/penstock/client.h"
#include "client/session/deadline.h"

namespace penstock::client {

struct RemoteNode {
  std::string node_uuid;
  std::string socket_dir;
  std::vector<std::string> peers;  // host:port of the other nodes of its store
};

// `tls`: all empty or all set.
absl::StatusOr<RemoteNode> AskRemoteNode(const std::string& host_and_port, const TlsFiles& tls, const Deadline& deadline);

// `given`, and what it lacks from the environment. INVALID_ARGUMENT for one or two files.
absl::StatusOr<TlsFiles> ResolveTlsFiles(const TlsFiles& given);

}  // namespace penstock::client

// The one symbol of libpenstock_grpc.so: serialized NodeInfoResponse into `out`, or the error text;
// returns the absl::StatusCode. `tls`: three paths, or null.
extern "C" int penstock_grpc_node_info(const char* host_and_port, const penstock::TlsFiles* tls, long long timeout_ns,
                                       std::string* out);

#endif  // PENSTOCK_CLIENT_SESSION_REMOTE_ADDRESS_H_
