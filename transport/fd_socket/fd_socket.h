// The fd socket: AF_UNIX SOCK_SEQPACKET connections that carry descriptors beside small messages.
//
// gRPC cannot pass descriptors; memory is handed over here (SCM_RIGHTS), the peer is named by the
// kernel (SO_PEERCRED), and end-of-file is the notice that the peer's last process is gone.
//
//   auto listener = Listen("/run/penstock/fd.sock", 0600);
//   auto peer = Accept(listener->get());
//   SendMessage(peer->get(), bytes, {memfd}, absl::Seconds(1));
//
// Threading:  functions keep no state; one message is sent or received whole, also by many threads
// Ownership:  received descriptors come as UniqueFd, close-on-exec; sent ones stay the caller's
// Errors:     UNAVAILABLE peer or server gone; DEADLINE_EXCEEDED nothing in time (with timeout 0:
//             nothing there now); ALREADY_EXISTS somebody listens on the path; INVALID_ARGUMENT a
//             message over the limits, ours or the peer's; RESOURCE_EXHAUSTED no descriptors left
// Limits:     1..65536 bytes and at most 16 descriptors a message; paths of at most 107 bytes
#ifndef PENSTOCK_TRANSPORT_FD_SOCKET_FD_SOCKET_H_
#define PENSTOCK_TRANSPORT_FD_SOCKET_FD_SOCKET_H_

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "transport/unique_fd.h"

namespace penstock {

inline constexpr size_t kMaxMessageBytes = 64 * 1024;
inline constexpr size_t kMaxMessageFds = 16;

// Makes the socket at `path` with these permission bits. A socket file that nobody listens on any
// more is replaced; one that somebody listens on, and anything that is not a socket, is not
// touched.
absl::StatusOr<UniqueFd> Listen(const std::string& path, mode_t mode);

absl::StatusOr<UniqueFd> Connect(const std::string& path);

// Waits for a connection. Transient failures (the peer gave up already) are waited over.
absl::StatusOr<UniqueFd> Accept(int listener, absl::Duration timeout = absl::InfiniteDuration());

// Two connected ends.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> SocketPair();

// Sends one message. An empty one is refused: the receiver could not tell it from end-of-file.
absl::Status SendMessage(int socket, absl::Span<const char> bytes, absl::Span<const int> fds,
                         absl::Duration timeout = absl::InfiniteDuration());

struct ReceivedMessage {
  bool end_of_file = false;  // the peer closed; nothing else is set
  size_t size = 0;           // bytes written to the buffer
  std::vector<UniqueFd> fds;
};

// Receives one message into `buffer`. A message that is longer than the buffer or has more than
// kMaxMessageFds descriptors is an error; its descriptors are closed, the connection stays usable.
absl::StatusOr<ReceivedMessage> ReceiveMessage(int socket, absl::Span<char> buffer,
                                               absl::Duration timeout = absl::InfiniteDuration());

struct PeerCredentials {
  pid_t pid = 0;  // 0 when the peer lives in a pid namespace that we cannot see
  uid_t uid = 0;
  gid_t gid = 0;
};

// Who connected, as the kernel noted at connect time.
absl::StatusOr<PeerCredentials> GetPeerCredentials(int socket);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_FD_SOCKET_FD_SOCKET_H_
