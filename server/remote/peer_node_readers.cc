// PeerNode: sessions for clients of this node.
#include <grpcpp/grpcpp.h>

#include "proto/strcat.h"
#include "server/remote/peer_node.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

absl::Duration TtlOf(const v1::OpenSessionResponse& opened) { return absl::Nanoseconds(static_cast<int64_t>(opened.ttl_ns())); }

}  // namespace

absl::StatusOr<PeerNode::Reader> PeerNode::OpenReader(const std::string& label) {
  const absl::Time asked = MonotonicNow();
  const absl::StatusOr<v1::OpenSessionResponse> opened = OpenSessionThere(label, can_.rdma != nullptr ? can_.rdma->version() : std::string());
  if (!opened.ok()) return opened.status();
  Reader reader{.token = opened->token(), .data_address = opened->lanes(0).address(), .tls = opened->lanes(0).tls(), .rdma = {},
                .deadline = asked + TtlOf(*opened)};
  for (const v1::Lane& lane : opened->lanes()) {
    if (can_.rdma != nullptr && lane.name() == "rdma" && lane.version() == can_.rdma->version()) reader.rdma = lane;
  }
  return reader;
}

absl::StatusOr<v1::LocateResult> PeerNode::LocateFor(const Reader& reader, const std::string& name, uint64_t version) {
  if (absl::Status s = CheckUp(); !s.ok()) return s;
  v1::LocateRequest request;
  request.add_items()->set_name(name);
  request.mutable_items(0)->set_version(version);
  v1::LocateResponse response;
  grpc::ClientContext context;
  Prepare(&context, reader.token);
  if (absl::Status s = Judge(peer_->Locate(&context, request, &response)); !s.ok()) return s;
  if (response.results_size() != 1) return absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to Locate"));
  if (response.results(0).status().code() != 0) return Decode(response.results(0).status());
  return std::move(*response.mutable_results(0));
}

absl::StatusOr<absl::Time> PeerNode::RenewFor(const Reader& reader) {
  if (absl::Status s = CheckUp(); !s.ok()) return s;
  v1::RenewResponse response;
  grpc::ClientContext context;
  Prepare(&context, reader.token);
  const absl::Time asked = MonotonicNow();
  if (absl::Status s = Judge(peer_->Renew(&context, {}, &response)); !s.ok()) return s;
  return asked + absl::Nanoseconds(static_cast<int64_t>(response.ttl_ns()));
}

void PeerNode::CloseReader(const Reader& reader) {
  if (!CheckUp().ok()) return;  // its deadline does it
  v1::CloseSessionResponse response;
  grpc::ClientContext context;
  Prepare(&context, reader.token);
  (void)peer_->CloseSession(&context, {}, &response);  // if it fails, the deadline does it
}

bool PeerNode::reads_by_rdma() const {
  std::lock_guard lock(mutex_);
  return open_.rdma != nullptr && MonotonicNow() >= rdma_down_until_;
}

}  // namespace penstock::server
