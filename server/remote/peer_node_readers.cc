// PeerNode: sessions for clients of this node, and for the channels that they follow.
#include <grpcpp/grpcpp.h>

#include <utility>

#include "proto/strcat.h"
#include "server/remote/peer_node.h"
#include "transport/monotonic.h"
#include "transport/stream/stream_wire.h"

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

absl::StatusOr<v1::LocateResult> PeerNode::LocateFor(const Reader& reader, const std::string& name, uint64_t version, directory::OpId op) {
  if (absl::Status s = CheckUp(); !s.ok()) return s;
  v1::LocateRequest request;
  request.add_items()->set_name(name);
  request.mutable_items(0)->set_version(version);
  request.mutable_items(0)->set_op_session(op.session);
  request.mutable_items(0)->set_op_count(op.count);
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

absl::StatusOr<PeerNode::Channel> PeerNode::TakeChannel(const std::string& name, const v1::ChannelResult& result) const {
  if (result.status().code() != 0) return Decode(result.status());
  Channel channel{.facts = {.spec = {.kind = layout::MutableKind::kChannel, .create = true, .name = name, .nbytes = result.nbytes(), .slots = result.slots(), .shape = {}},
                            .incarnation = result.incarnation(), .newest = result.newest()},
                  .grant = result.grant()};
  const absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(result.shape().data(), static_cast<size_t>(result.shape_size())));
  absl::Status status = shape.status();
  if (status.ok() && result.dtype() > kMaxDType) status = absl::InvalidArgumentError("dtype");
  if (status.ok()) {
    channel.facts.spec.shape = *shape;
    channel.facts.spec.dtype = static_cast<DType>(result.dtype());
    status = CheckChannel(channel.facts.spec);
  }
  if (status.ok() && channel.facts.newest > stream::kMaxStep) status = absl::InvalidArgumentError("newest");
  if (!status.ok()) return absl::UnavailableError(StrCat("node ", address_, ": tells of a channel \"", name, "\" that cannot be: ", std::string(status.message())));
  return channel;
}

absl::StatusOr<MutableMemory::Facts> PeerNode::LookForChannel(const std::string& name) {
  v1::OpenChannelsRequest request;
  request.add_names(name);
  request.set_look(true);
  v1::OpenChannelsResponse response;
  const absl::StatusOr<Open> session = AskInSession(&v1::Peer::Stub::OpenChannels, request, &response, kCallSeconds);
  if (!session.ok()) return session.status();
  if (response.results_size() != 1) return absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to OpenChannels"));
  absl::StatusOr<Channel> channel = TakeChannel(name, response.results(0));
  if (!channel.ok()) return channel.status();
  return std::move(channel->facts);
}

absl::StatusOr<std::vector<absl::StatusOr<PeerNode::Channel>>> PeerNode::OpenChannels(const Reader& reader, absl::Span<const std::string> names) {
  if (absl::Status s = CheckUp(); !s.ok()) return s;
  v1::OpenChannelsRequest request;
  request.mutable_names()->Assign(names.begin(), names.end());
  v1::OpenChannelsResponse response;
  grpc::ClientContext context;
  Prepare(&context, reader.token);
  if (absl::Status s = Judge(peer_->OpenChannels(&context, request, &response)); !s.ok()) return s;
  if (response.results_size() != request.names_size()) return absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to OpenChannels"));
  std::vector<absl::StatusOr<Channel>> channels;
  for (size_t i = 0; i < names.size(); ++i) channels.push_back(TakeChannel(names[i], response.results(static_cast<int>(i))));
  return channels;
}

bool PeerNode::reads_by_rdma() const {
  std::lock_guard lock(mutex_);
  return open_.rdma != nullptr && MonotonicNow() >= rdma_down_until_;
}

}  // namespace penstock::server
