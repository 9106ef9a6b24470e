#include "client/session/remote_address.h"

#include <cstdlib>

#include "client/session/own_library.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::client {
namespace {

using NodeInfoFunction = decltype(&penstock_grpc_node_info);

absl::StatusOr<NodeInfoFunction> LoadGrpc() {
  const absl::StatusOr<void*> symbol = LoadFromOwnLibrary("libpenstock_grpc.so", "penstock_grpc_node_info");
  if (!symbol.ok()) return absl::Status(symbol.status().code(), StrCat("an address of the form host:port: ", symbol.status().message()));
  return reinterpret_cast<NodeInfoFunction>(*symbol);
}

}  // namespace

absl::StatusOr<TlsFiles> ResolveTlsFiles(const TlsFiles& given) {
  const auto resolve = [](const std::string& path, const char* variable) {
    const char* const from_environment = path.empty() ? std::getenv(variable) : nullptr;
    return from_environment == nullptr ? path : std::string(from_environment);
  };
  TlsFiles files{resolve(given.ca, "PENSTOCK_TLS_CA"), resolve(given.cert, "PENSTOCK_TLS_CERT"), resolve(given.key, "PENSTOCK_TLS_KEY")};
  if (files.ca.empty() == files.cert.empty() && files.ca.empty() == files.key.empty()) return files;
  return absl::InvalidArgumentError(StrCat("tls: \"", files.ca.empty() ? "ca" : files.cert.empty() ? "cert" : "key",
                                           "\" is missing: TLS takes the files ca, cert and key, or none of them"));
}

absl::StatusOr<RemoteNode> AskRemoteNode(const std::string& host_and_port, const TlsFiles& tls, const Deadline& deadline) {
  static const absl::StatusOr<NodeInfoFunction> node_info = LoadGrpc();
  if (!node_info.ok()) return node_info.status();
  std::string out;
  const int code = (*node_info)(host_and_port.c_str(), tls.ca.empty() ? nullptr : &tls,
                                absl::ToInt64Nanoseconds(deadline.Slice(absl::Hours(1))), &out);
  if (code != 0) return absl::Status(static_cast<absl::StatusCode>(code), out);
  v1::NodeInfoResponse info;
  if (!info.ParseFromString(out)) return absl::InternalError("a malformed answer to NodeInfo");
  RemoteNode node{info.node_uuid(), info.socket_dir(), {}};
  for (const v1::PeerInfo& peer : info.peers()) node.peers.push_back(peer.address());
  return node;
}

}  // namespace penstock::client
