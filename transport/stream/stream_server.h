// StreamServer: serves reads and writes of granted blocks over TCP; the data port of a node.
//
//   auto server = StreamServer::Start({.host = "127.0.0.1", .port = 0, .grants = &grants});
//   advertise((*server)->port());
//
// A connection begins with a token that the GrantTable must know; then every request names a grant, and the table is asked
// each time. Bytes go straight from and into the granted block; short runs are packed on the way. Requests of one
// connection are answered in order, connections in turns of about 1 MiB. Steps of channels (stream_wire.h) are answered when
// they come, bytes of a block that is still being filled (GrowingBlock) are sent when they have: the server hears of both by the bell.
//
// Threading:  a few threads of its own, asleep while nothing comes; Disconnect and Stop: any thread.
// Ownership:  the grant table must outlive it; what a request uses is held (GrantedBlock) until its last byte is out.
// Errors:     Start: ALREADY_EXISTS the port is taken, INVALID_ARGUMENT the host. A peer that breaks the protocol is
//             disconnected and counted.
// Limits:     a stranger gets 5 s to say hello and at most max_strangers connections are kept so, the oldest goes first;
//             max_connections in all, max_connections_per_token of one token.
#ifndef PENSTOCK_TRANSPORT_STREAM_STREAM_SERVER_H_
#define PENSTOCK_TRANSPORT_STREAM_STREAM_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "transport/lane/lane.h"

namespace penstock {

struct StreamServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;
  GrantTable* grants = nullptr;
  int threads = 2;
  size_t max_connections = 4096;
  size_t max_connections_per_token = 256;
  size_t max_strangers = 256;
  absl::Duration hello_timeout = absl::Seconds(5);
  int bell_fd = -1;  // an eventfd that grows when a channel that is followed has a new step or has ended, or a block has grown; -1: looks every 200 ms
  bool tls = false;  // nothing but TLS 1.3 is spoken, keyed by the sessions' tokens (tls.h)
};

struct StreamServerCounts {
  uint64_t connections = 0;  // now
  uint64_t strangers = 0;    // now: have not said hello
  uint64_t refused = 0;      // ever: no or wrong hello, too many, broken protocol
  uint64_t requests = 0;     // ever
  uint64_t sent_bytes = 0;   // payload, ever
  uint64_t received_bytes = 0;
};

class StreamServer {
 public:
  static absl::StatusOr<std::unique_ptr<StreamServer>> Start(const StreamServerOptions& options);
  virtual ~StreamServer() = default;

  virtual int port() const = 0;
  // Ends all connections of the token, which the grant table does not know any more; they give back what they use.
  virtual void Disconnect(const LaneToken& token) = 0;
  virtual StreamServerCounts counts() const = 0;
  virtual void Stop() = 0;  // idempotent
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_STREAM_STREAM_SERVER_H_
