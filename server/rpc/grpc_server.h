// GrpcServer: services Store and Peer, and Directory in a cluster, over gRPC, on the socket directory's grpc.sock and, when asked
// for, on TCP; with health and reflection.
//
// Threading:  gRPC's own threads; a waiting call (Wait, Watch) keeps one for at most 1 s.
// Ownership:  the services and the DirectoryLink must outlive it; the link must be stopped first.
// Errors:     Start: Unavailable with the address when it cannot listen.
// Limits:     messages of at most 64 MiB.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/penstockd/config.h"
#include "server/rpc/peer_service.h"
#include "server/rpc/store_service.h"

namespace penstock::server {

class DirectoryLink;

struct GrpcOptions {
  std::string unix_socket;  // path
  uint32_t socket_mode = 0600;
  std::string host = "127.0.0.1";
  int port = -1;            // -1: no TCP; 0: a free one
  TlsFiles tls;             // of TCP
  DirectoryLink* directory = nullptr;  // null: without service Directory
};

class GrpcServer {
 public:
  // `peer`: null without a data port.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(StoreService* service, PeerService* peer, const GrpcOptions& options);
  virtual ~GrpcServer() = default;
  virtual int port() const = 0;  // -1 = none
  virtual void Stop() = 0;       // lets running calls end for a moment
};

}  // namespace penstock::server
