// TLS 1.3 for the stream lane, keyed by the session: no certificates on the data port.
//
// Whoever holds a session's token got it through gRPC, whose own TLS (mutual, with certificates) proved who is who. From
// the token both ends derive a pre-shared key and its public name (RFC 8446 sections 2.2 and 4.2.11; the key is mixed with
// an ephemeral Diffie-Hellman exchange, so a token that leaks later opens no recorded connection). A peer without the token
// of a session that is open does not get past the handshake. A process that reads by a session that its node opened needs
// no certificate.
//
//   auto tls = TlsSession::Client(fd, token);
//   (*tls)->Send(...)              // shakes hands first, as far as it can go without waiting
//
// Threading:  one thread at a time.
// Ownership:  borrows the descriptor. Going away says nothing to the peer (a forked child drops its parent's sessions).
// Errors:     PERMISSION_DENIED the handshake was refused: the peer does not know the session; UNAVAILABLE all else.
// Limits:     AES-128-GCM with SHA-256 only; no resumption, no early data. The sender changes its key every kRekeyBytes
//             (RFC 8446 section 5.5: a key is good for 2^24.5 records).
#ifndef PENSTOCK_TRANSPORT_STREAM_TLS_H_
#define PENSTOCK_TRANSPORT_STREAM_TLS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "transport/lane/lane.h"

namespace penstock::stream {

struct TlsKey {
  TlsIdentity identity;             // goes over the wire in clear: names the session, tells nothing of its token
  std::array<uint8_t, 32> secret;
};
TlsKey TlsKeyOf(const LaneToken& token);

class TlsSession {
 public:
  static constexpr uint64_t kRekeyBytes = uint64_t{64} << 30;

  static absl::StatusOr<std::unique_ptr<TlsSession>> Client(int fd, const LaneToken& token);
  // `grants` is asked for the token of the identity that the peer names.
  static absl::StatusOr<std::unique_ptr<TlsSession>> Server(int fd, GrantTable* grants);
  static void RekeyAfterForTest(uint64_t bytes);  // of sessions that begin now
  static uint64_t key_changes();                  // of all senders of this process
  virtual ~TlsSession() = default;

  // As TcpSocket's. After 0: waits_for_input/output tell for what the socket is to be polled.
  virtual absl::StatusOr<size_t> Receive(char* to, size_t bytes) = 0;
  virtual absl::StatusOr<size_t> Send(const char* from, size_t bytes) = 0;
  virtual void FinishSending() = 0;
  virtual bool shaking_hands() const = 0;
  virtual bool wants_output() const = 0;  // what was called last and gave 0 waits until the socket takes bytes
  virtual bool has_input() const = 0;     // Receive may give bytes though the socket has none
};

}  // namespace penstock::stream

#endif  // PENSTOCK_TRANSPORT_STREAM_TLS_H_
