#include "server/rpc/peer_service.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "proto/names.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/rpc/status_message.h"
#include "server/rpc/store_service.h"
#include "server/store/spec_message.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

absl::StatusOr<LaneToken> ParseToken(std::string_view bytes) {
  LaneToken token;
  if (bytes.size() != token.size()) {
    return absl::PermissionDeniedError("this call needs a remote session: Peer.OpenSession gives its token, to be sent as metadata penstock-session-bin");
  }
  std::memcpy(token.data(), bytes.data(), token.size());
  return token;
}

void Encode(const Published& published, v1::TensorInfo* info) {
  info->mutable_version()->set_term(published.version_term);
  info->mutable_version()->set_number(published.version_number);
  info->set_created_ns(published.created_ns);
}

void Encode(const RemoteSessions::OpenedChannel& opened, v1::ChannelResult* result) {
  const MutableSpec& spec = opened.facts.spec;
  result->set_grant(opened.grant);
  result->set_incarnation(opened.facts.incarnation);
  result->set_dtype(static_cast<uint32_t>(spec.dtype));
  result->mutable_shape()->Assign(spec.shape.dims().begin(), spec.shape.dims().end());
  result->set_nbytes(spec.nbytes);
  result->set_slots(spec.slots);
  result->set_newest(opened.facts.newest);
}

absl::Status CheckBatch(const char* field, int items) {
  if (items <= StoreService::kMaxBatch) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(field, ": ", items, " in one call; at most ", StoreService::kMaxBatch));
}

}  // namespace

absl::Status PeerService::OpenSession(const v1::OpenSessionRequest& request, v1::OpenSessionResponse* response) {
  const absl::Duration ttl = request.ttl_ns() > uint64_t{1} << 62 ? absl::InfiniteDuration() : absl::Nanoseconds(static_cast<int64_t>(request.ttl_ns()));
  const absl::StatusOr<RemoteSessions::Opened> opened = sessions_->Open(request.label(), ttl, lanes_.rdma != nullptr && request.rdma_version() == lanes_.rdma->version(), MonotonicNow());
  if (!opened.ok()) return opened.status();
  response->set_token(std::string(reinterpret_cast<const char*>(opened->token.data()), opened->token.size()));
  response->set_node_uuid(UuidText(store_->header()->node_uuid));
  response->set_node_id(std::string(reinterpret_cast<const char*>(store_->header()->node_uuid), sizeof(store_->header()->node_uuid)));
  response->set_generation(store_->generation());
  response->set_version(version_);
  response->set_ttl_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(opened->ttl)));
  v1::Lane* stream = response->add_lanes();
  stream->set_name("stream");
  stream->set_address(lanes_.data_address);
  stream->set_tls(lanes_.tls);
  if (lanes_.rdma != nullptr) {
    v1::Lane* rdma = response->add_lanes();
    rdma->set_name("rdma");
    rdma->set_worker(lanes_.rdma->worker());
    rdma->set_version(lanes_.rdma->version());
  }
  if (lanes_.ucx_tcp != nullptr) {
    v1::Lane* ucx_tcp = response->add_lanes();
    ucx_tcp->set_name("ucx-tcp");
    ucx_tcp->set_worker(lanes_.ucx_tcp->worker());
    ucx_tcp->set_version(UcxTcp::version());
  }
  return absl::OkStatus();
}

absl::Status PeerService::Renew(std::string_view bytes, const v1::RenewRequest&, v1::RenewResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  const absl::StatusOr<absl::Duration> ttl = sessions_->Renew(*token, MonotonicNow());
  if (!ttl.ok()) return ttl.status();
  response->set_ttl_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(*ttl)));
  return absl::OkStatus();
}

absl::Status PeerService::CloseSession(std::string_view bytes, const v1::CloseSessionRequest&, v1::CloseSessionResponse*) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  sessions_->Close(*token);
  return absl::OkStatus();
}

absl::Status PeerService::Locate(std::string_view bytes, const v1::LocateRequest& request, v1::LocateResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = sessions_->BeginCall(*token); !s.ok()) return s;
  if (absl::Status s = CheckBatch("items", request.items_size()); !s.ok()) return s;
  for (const v1::LocateItem& item : request.items()) {
    v1::LocateResult* result = response->add_results();
    absl::Status status = ValidateName(item.name());
    if (status.ok()) {
      absl::StatusOr<RemoteSessions::Located> located =
          sessions_->Locate(*token, item.name(), {.version = item.version(), .have_version = item.have_version(), .have_created_ns = item.have_created_ns(), .lease = item.lease(),
                                              .op = {item.op_session(), item.op_count()}, .verify = item.verify()});
      status = located.status();
      if (status.ok()) {
        result->set_unchanged(located->unchanged);
        result->set_lease_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(located->lease)));
        located->info.clear_location();  // addresses inside the node are nobody else's business
        *result->mutable_info() = std::move(located->info);
        result->set_grant(located->grant);
        const std::string key = located->rdma && located->grant != 0 ? lanes_.rdma->KeyOf(located->segment) : std::string();
        if (!key.empty()) {
          result->mutable_memory()->set_address(reinterpret_cast<uint64_t>(located->data));
          result->mutable_memory()->set_key(key);
        }
      }
    }
    Encode(status, result->mutable_status());
  }
  PENSTOCK_FAULT_POINT("node.peer.located");
  return absl::OkStatus();
}

absl::Status PeerService::AwaitRecalls(std::string_view bytes, const v1::AwaitRecallsRequest& request, v1::AwaitRecallsResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  const absl::StatusOr<LeaseRecall::Recalls> recalls = sessions_->AwaitRecalls(*token, request.done());
  if (!recalls.ok()) return recalls.status();
  response->set_last(recalls->last);
  response->mutable_names()->Assign(recalls->names.begin(), recalls->names.end());
  return absl::OkStatus();
}

absl::Status PeerService::Release(std::string_view bytes, const v1::ReleaseRequest& request, v1::ReleaseResponse*) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = CheckBatch("grants", request.grants_size()); !s.ok()) return s;
  return sessions_->Release(*token, absl::MakeConstSpan(request.grants().data(), static_cast<size_t>(request.grants_size())));
}

absl::Status PeerService::ReserveDrafts(std::string_view bytes, const v1::ReserveDraftsRequest& request, v1::ReserveDraftsResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = sessions_->BeginCall(*token); !s.ok()) return s;
  if (absl::Status s = CheckBatch("items", request.items_size()); !s.ok()) return s;
  for (const v1::ReserveItem& item : request.items()) {
    v1::ReserveResult* result = response->add_results();
    std::string metadata;
    absl::StatusOr<CreateSpec> spec = DecodeSpec(item.spec(), &metadata);
    absl::Status status = spec.status();
    if (status.ok()) {
      spec->request_id = item.request_key();
      const absl::StatusOr<RemoteSessions::Reserved> reserved = sessions_->Reserve(*token, *spec, item.if_home());
      status = reserved.status();
      if (status.ok()) result->set_draft(reserved->draft);
      if (status.ok() && item.rdma() && reserved->rdma && reserved->draft != 0 && spec->nbytes > 0) ShareByRdma(*token, *reserved, spec->nbytes, result);
      if (status.ok() && reserved->published) Encode(*reserved->published, result->mutable_published());
    }
    Encode(status, result->mutable_status());
  }
  PENSTOCK_FAULT_POINT("node.peer.reserved");
  return absl::OkStatus();
}

// If it cannot be, the draft is written over the stream lane.
void PeerService::ShareByRdma(const LaneToken& token, const RemoteSessions::Reserved& reserved, uint64_t bytes, v1::ReserveResult* result) {
  const absl::StatusOr<RdmaTarget::Registration> registered = lanes_.rdma->RegisterBlock(reserved.data, bytes);
  if (!registered.ok() || !sessions_->ShareByRdma(token, reserved.draft, registered->memory).ok()) return;
  result->mutable_memory()->set_address(reinterpret_cast<uint64_t>(reserved.data));
  result->mutable_memory()->set_key(registered->key);
}

absl::Status PeerService::PublishDrafts(std::string_view bytes, const v1::PublishDraftsRequest& request, v1::PublishDraftsResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = sessions_->BeginCall(*token); !s.ok()) return s;
  if (absl::Status s = CheckBatch("drafts", request.drafts_size()); !s.ok()) return s;
  for (const absl::StatusOr<Published>& published : sessions_->Publish(*token, request.drafts(), request.written_by_rdma())) {
    v1::TensorResult* result = response->add_results();
    Encode(published.status(), result->mutable_status());
    if (published.ok()) Encode(*published, result->mutable_info());
  }
  PENSTOCK_FAULT_POINT("node.peer.published");
  return absl::OkStatus();
}

absl::Status PeerService::OpenChannels(std::string_view bytes, const v1::OpenChannelsRequest& request, v1::OpenChannelsResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = sessions_->BeginCall(*token); !s.ok()) return s;
  if (absl::Status s = CheckBatch("names", request.names_size()); !s.ok()) return s;
  for (const std::string& name : request.names()) {
    v1::ChannelResult* result = response->add_results();
    absl::Status status = ValidateUserName(name);
    if (status.ok()) {
      const absl::StatusOr<RemoteSessions::OpenedChannel> opened = sessions_->OpenChannel(*token, name, request.look());
      status = opened.status();
      if (status.ok()) Encode(*opened, result);
    }
    Encode(status, result->mutable_status());
  }
  PENSTOCK_FAULT_POINT("node.peer.channels");
  return absl::OkStatus();
}

absl::Status PeerService::JoinChain(std::string_view bytes, const v1::JoinChainRequest& request, v1::JoinChainResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = sessions_->BeginCall(*token); !s.ok()) return s;
  NodeUuid node{};
  if (request.node_id().size() != node.size()) {
    return absl::InvalidArgumentError(StrCat("node_id: has ", request.node_id().size(), " bytes; it must have ", node.size()));
  }
  std::copy(request.node_id().begin(), request.node_id().end(), node.begin());
  const absl::StatusOr<RemoteSessions::Chain> chain = sessions_->JoinChain(*token, request.grant(), node);
  if (!chain.ok()) return chain.status();
  if (chain->ahead) response->set_ahead(std::string(chain->ahead->begin(), chain->ahead->end()));
  response->set_place(chain->ahead_count);
  return absl::OkStatus();
}

absl::Status PeerService::LocateCopy(std::string_view bytes, const v1::LocateCopyRequest& request, v1::LocateCopyResponse* response) {
  const absl::StatusOr<LaneToken> token = ParseToken(bytes);
  if (!token.ok()) return token.status();
  if (absl::Status s = sessions_->BeginCall(*token); !s.ok()) return s;
  if (absl::Status s = ValidateName(request.name()); !s.ok()) return s;
  const absl::StatusOr<RemoteSessions::LocatedCopy> copy = sessions_->LocateCopy(*token, request.name(), request.version(), request.created_ns());
  if (!copy.ok()) return copy.status();
  response->set_grant(copy->grant);
  response->set_nbytes(copy->nbytes);
  return absl::OkStatus();
}

}  // namespace penstock::server
