// SocketDir: the directory of grpc.sock and fd.sock: which it is, and that it is safe and ours.
//
// Whoever can connect to the sockets is a client, and whoever can replace them is the node: so the
// directory's permissions are the access control of a node on one host.
//
// Threading:  any thread
// Ownership:  ListenOnFdSocket returns the listener; its file is removed by RemoveSockets
// Errors:     INVALID_ARGUMENT (path too long), PERMISSION_DENIED (not ours, or open to others),
//             ALREADY_EXISTS (another node answers there; the message says which)
// Limits:     paths of at most 97 bytes, since a socket's path has at most 107
#ifndef PENSTOCK_SERVER_PENSTOCKD_SOCKET_DIR_H_
#define PENSTOCK_SERVER_PENSTOCKD_SOCKET_DIR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/penstockd/config.h"
#include "transport/unique_fd.h"

namespace penstock::server {

// /run/penstock if it is or could be made by us, else $XDG_RUNTIME_DIR/penstock, else
// /tmp/penstock-<uid>.
std::string DefaultSocketDir(const Environment& environment);

// Absolute, without a trailing slash, short enough for sockets in it.
absl::StatusOr<std::string> AbsoluteSocketDir(const std::string& path);

// Makes the directory if need be, checks it and listens on fd.sock in it.
absl::StatusOr<UniqueFd> ListenOnFdSocket(const NodeConfig& config);

// When the node has ended: its sockets are of no use to anybody.
void RemoveSockets(const NodeConfig& config);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_SOCKET_DIR_H_
