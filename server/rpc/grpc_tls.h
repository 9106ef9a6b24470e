// What gRPC's TLS is made of: a certificate and a key of this node, and the CA that everybody's certificate is checked
// against, nodes' and clients'. The files are read again when they change: certificates are renewed without a restart.
//
// Threading:  any thread.
// Ownership:  what is returned keeps a thread of gRPC that looks at the files once a second.
// Errors:     CheckTlsFiles: INVALID_ARGUMENT, with the flag and what is wrong with its file.
// Limits:     PEM; the key without a passphrase. A peer's certificate must name the host or address that --peers has.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "server/penstockd/config.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace penstock::server {

absl::Status CheckTlsFiles(const TlsFiles& files);

// Without TLS where no files are given.
std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const TlsFiles& files);
std::shared_ptr<grpc::ChannelCredentials> PeerCredentialsOf(const TlsFiles& files);
// etcd may ask for no certificate: a CA alone means TLS, too.
std::shared_ptr<grpc::ChannelCredentials> EtcdCredentialsOf(const TlsFiles& files);

}  // namespace penstock::server
