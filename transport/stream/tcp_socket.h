// TcpSocket: one end of a non-blocking TCP connection, with TLS or without, and how to get one.
//
// Threading:  one thread at a time, except Shutdown.
// Ownership:  owns its descriptor.
// Errors:     UNAVAILABLE refused, reset, closed by the peer; PERMISSION_DENIED the TLS handshake failed; INVALID_ARGUMENT
//             an address that cannot be resolved; ALREADY_EXISTS the port is in use.
// Limits:     Send and Receive never wait; host names are resolved by getaddrinfo, which may.
#ifndef PENSTOCK_TRANSPORT_STREAM_TCP_SOCKET_H_
#define PENSTOCK_TRANSPORT_STREAM_TCP_SOCKET_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/lane/lane.h"
#include "transport/stream/tls.h"
#include "transport/unique_fd.h"

namespace penstock {

class TcpSocket {
 public:
  TcpSocket() = default;
  explicit TcpSocket(UniqueFd fd) : fd_(std::move(fd)) {}

  // Begins to connect to "host:port" or "[v6]:port"; writable or in error once that is decided (ConnectError).
  static absl::StatusOr<TcpSocket> BeginConnect(const std::string& address);
  absl::Status ConnectError() const;

  // From here on all bytes go through TLS; before the first one.
  absl::Status UseTlsAsClient(const LaneToken& token);
  absl::Status UseTlsAsServer(GrantTable* grants);

  // Bytes moved; 0: none now. Closed by the peer is UNAVAILABLE.
  absl::StatusOr<size_t> Receive(char* to, size_t bytes);
  absl::StatusOr<size_t> Send(const char* from, size_t bytes, bool more_follows);
  void FinishSending();  // the peer sees end-of-file after what was sent

  // What to poll for, for one who would send (POLLOUT) or receive (POLLIN): a TLS handshake has wishes of its own.
  short PollEvents(short wanted) const;
  // Whether Receive may give bytes though the socket has none: poll would not tell.
  bool has_input() const { return tls_ != nullptr && tls_->has_input(); }

  int fd() const { return fd_.get(); }
  explicit operator bool() const { return static_cast<bool>(fd_); }

 private:
  UniqueFd fd_;
  std::unique_ptr<stream::TlsSession> tls_;
};

// "host:port" or "[v6]:port".
std::string TcpAddress(const std::string& host, int port);
// A listening socket; port 0 takes a free one.
absl::StatusOr<UniqueFd> ListenTcp(const std::string& host, int port);
absl::StatusOr<int> BoundPort(int listener);
// Nothing (an empty TcpSocket) when nobody is waiting.
absl::StatusOr<TcpSocket> AcceptTcp(int listener);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_STREAM_TCP_SOCKET_H_
