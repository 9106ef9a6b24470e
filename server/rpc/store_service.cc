#include "server/rpc/store_service.h"

#include <unistd.h>

#include <algorithm>

#include "proto/names.h"
#include "proto/rpc_methods.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/rpc/status_message.h"
#include "server/store/spec_message.h"
#include "transport/lane/quarantine.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

absl::Status CheckBatch(int items) {
  if (items <= StoreService::kMaxBatch) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("items: ", items, " in one call; at most ", StoreService::kMaxBatch));
}

absl::Status NeedSession(const Session* session) {
  if (session != nullptr) return absl::OkStatus();
  return absl::PermissionDeniedError("this call needs a session: open one on the node's fd socket and send its token as metadata penstock-session-bin");
}

template <class Request, class Response, class Handler>
absl::Status Serve(std::string_view bytes, std::string* out, Handler handler) {
  Request request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::InvalidArgumentError(StrCat("message: not a ", Request::descriptor()->name()));
  }
  Response response;
  if (absl::Status s = handler(request, &response); !s.ok()) return s;
  response.SerializeToString(out);
  return absl::OkStatus();
}

}  // namespace

absl::Status StoreService::NodeInfo(const v1::NodeInfoRequest&, v1::NodeInfoResponse* response) {
  response->set_node_uuid(UuidText(store_->header()->node_uuid));
  response->set_generation(store_->generation());
  response->set_version(facts_.version);
  response->set_layout_version(layout::kLayoutVersion);
  response->set_socket_dir(facts_.socket_dir);
  response->set_grpc_address(facts_.grpc_address);
  response->set_pid(static_cast<uint32_t>(getpid()));
  response->set_warden_pid(facts_.warden_pid);
  response->set_page_kind(store_->page_kind());
  response->set_started_ns(store_->started_ns());
  response->set_data_address(facts_.data_address);
  response->set_tls(facts_.tls);
  response->set_tenant(facts_.tenant);
  for (const std::string& lane : facts_.lanes) response->add_lanes(lane);
  if (complete_) complete_(response);
  return absl::OkStatus();
}

absl::Status StoreService::Allocate(Session* session, const v1::AllocateRequest& request, v1::AllocateResponse* response) {
  if (absl::Status s = NeedSession(session); !s.ok()) return s;
  if (absl::Status s = CheckBatch(request.items_size()); !s.ok()) return s;
  for (const v1::CreateSpec& item : request.items()) {
    v1::AllocateResult* result = response->add_results();
    std::string metadata;
    const absl::StatusOr<CreateSpec> spec = DecodeSpec(item, &metadata);
    const absl::StatusOr<Placed> placed = spec.ok() ? store_->Reserve(*session, *spec) : spec.status();
    if (placed.ok() && placed->kind == Placed::Kind::kWait) {
      Encode(absl::UnavailableError("memory is on its way; ask again"), result->mutable_status());
      continue;
    }
    Encode(placed.status(), result->mutable_status());
    if (!placed.ok()) continue;
    result->set_need_extent_bytes(placed->need_extent_bytes);
    result->mutable_location()->set_segment(placed->block.segment);
    result->mutable_location()->set_offset(placed->block.offset);
    result->mutable_location()->set_record(placed->record);
    result->mutable_location()->set_record_seq(placed->record_seq);
  }
  return absl::OkStatus();
}

absl::Status StoreService::Publish(Session* session, const v1::PublishRequest& request, v1::PublishResponse* response) {
  if (absl::Status s = NeedSession(session); !s.ok()) return s;
  if (absl::Status s = CheckBatch(request.items_size()); !s.ok()) return s;
  std::vector<std::string> names;
  for (const v1::DraftHandle& item : request.items()) names.push_back(store_->DraftName(item.record()));
  std::vector<absl::StatusOr<Published>> results;
  if (puts_ != nullptr) {
    std::vector<ClusterPuts::Draft> drafts;
    for (const v1::DraftHandle& item : request.items()) drafts.push_back({item.record(), item.record_seq()});
    results = puts_->PublishNow(store_->FindSession(session->id), drafts);
  } else {
    results = recall_->ChangeMany(names, [&](size_t i, LeaseRule leases) {
      const v1::DraftHandle& item = request.items(static_cast<int>(i));
      return store_->Publish(*session, item.record(), item.record_seq(), leases);
    });
  }
  for (const absl::StatusOr<Published>& published : results) {
    v1::TensorResult* result = response->add_results();
    Encode(published.status(), result->mutable_status());
    if (!published.ok()) continue;
    result->mutable_info()->mutable_version()->set_term(published->version_term);
    result->mutable_info()->mutable_version()->set_number(published->version_number);
    result->mutable_info()->set_created_ns(published->created_ns);
  }
  return absl::OkStatus();
}

absl::Status StoreService::Abort(Session* session, const v1::AbortRequest& request, v1::AbortResponse* response) {
  if (absl::Status s = NeedSession(session); !s.ok()) return s;
  if (absl::Status s = CheckBatch(request.items_size()); !s.ok()) return s;
  for (const v1::DraftHandle& item : request.items()) {
    Encode(store_->Abort(*session, item.record(), item.record_seq()), response->add_results());
  }
  return absl::OkStatus();
}

absl::Status StoreService::Commit(Session* session, const v1::CommitRequest& request, v1::CommitResponse* response) {
  if (absl::Status s = NeedSession(session); !s.ok()) return s;
  if (!request.drop_prefix().empty()) return store_->DropBound(*session, request.drop_prefix());
  Store::Kept kept{.prefix = request.keep_prefix(), .staged = {}};
  for (const v1::CommitRequest::Staged& staged : request.staged()) {
    for (const uint32_t number : staged.numbers()) kept.staged.push_back(StrCat(staged.prefix(), number));
  }
  if (!request.has_draft()) return store_->Keep(*session, kept);
  const v1::DraftHandle& draft = request.draft();
  // Several nodes decide then, so it is no single act: the client does it in two steps (client/snapshot/snapshot_writer.cc).
  if (puts_ != nullptr) return absl::FailedPreconditionError(StrCat("commit '", store_->DraftName(draft.record()), "': this node alone is not its home"));
  const absl::StatusOr<Published> published = recall_->ChangeMany({store_->DraftName(draft.record())}, [&](size_t, LeaseRule leases) {
    return store_->Commit(*session, draft.record(), draft.record_seq(), kept, leases);
  })[0];
  if (!published.ok()) return published.status();
  response->mutable_version()->set_term(published->version_term);
  response->mutable_version()->set_number(published->version_number);
  response->set_created_ns(published->created_ns);
  return absl::OkStatus();
}

absl::Status StoreService::Stat(const v1::StatRequest& request, v1::StatResponse* response) {
  if (absl::Status s = CheckBatch(request.items_size()); !s.ok()) return s;
  if (names_ != nullptr) return names_->Stat(request, response);
  for (const v1::TensorRef& item : request.items()) {
    v1::TensorResult* result = response->add_results();
    absl::Status status = ValidateName(item.name());
    if (status.ok()) {
      absl::StatusOr<v1::TensorInfo> info = store_->Stat(item.name(), item.version());
      status = info.status();
      if (info.ok()) *result->mutable_info() = *std::move(info);
    }
    Encode(status, result->mutable_status());
  }
  return absl::OkStatus();
}

absl::Status StoreService::LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response) {
  if (absl::Status s = CheckBatch(request.names_size()); !s.ok()) return s;
  for (const std::string& name : request.names()) {
    if (absl::Status s = ValidateName(name); !s.ok()) return s;
  }
  if (names_ != nullptr) return names_->LongestPrefix(request, response);
  int count = 0;
  while (count < request.names_size() && store_->Lookup(request.names(count), 0).ok()) ++count;
  response->set_count(count);
  return absl::OkStatus();
}

absl::Status StoreService::Delete(const v1::DeleteRequest& request, v1::DeleteResponse* response) {
  if (absl::Status s = CheckBatch(request.items_size()); !s.ok()) return s;
  std::vector<std::string> names;
  for (const v1::TensorRef& item : request.items()) names.push_back(item.name());
  if (names_ != nullptr) {
    for (const absl::Status& status : names_->Delete(request)) Encode(status, response->add_results());
    return absl::OkStatus();
  }
  const std::vector<absl::Status> results = recall_->ChangeMany(names, [&](size_t i, LeaseRule leases) {
    const absl::Status valid = ValidateName(names[i]);
    return valid.ok() ? store_->Delete(names[i], request.items(static_cast<int>(i)).version(), leases).status() : valid;
  });
  for (const absl::Status& status : results) Encode(status, response->add_results());
  return absl::OkStatus();
}

absl::Status StoreService::DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response) {
  if (names_ != nullptr) return names_->DeletePrefix(request, response);
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
  const absl::StatusOr<uint64_t> count = recall_->DeletePrefix(request.prefix());
  if (count.ok()) response->set_count(*count);
  return count.status();
}

absl::Status StoreService::OpenRead(const v1::OpenReadRequest& request, v1::OpenReadResponse* response) {
  if (absl::Status s = ValidateName(request.name()); !s.ok()) return s;
  response->set_here(true);
  return store_->Lookup(request.name(), request.version()).status();
}

absl::Status StoreService::List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response) {
  if (absl::Status s = ValidatePrefix(request.prefix()); !s.ok()) return s;
  if (names_ != nullptr) return request.of_homes() ? names_->ListHomes(request, response) : names_->List(request, page_bytes, response);
  if (absl::Status s = store_->MayServeNames(); !s.ok()) return s;
  store_->List(request, page_bytes, response);
  return absl::OkStatus();
}

absl::Status StoreService::Df(const v1::DfRequest&, v1::DfResponse* response) {
  store_->Df(response);
  response->set_quarantined_bytes(Quarantine::bytes());
  response->set_max_requests_per_s(rate_.per_second());
  response->set_throttled(rate_.waited());
  if (add_to_df_) add_to_df_(response);
  if (remote_ != nullptr) response->set_sessions(response->sessions() + remote_->count());
  return absl::OkStatus();
}

absl::Status StoreService::Sessions(const v1::SessionsRequest&, v1::SessionsResponse* response) {
  store_->ListSessions(response);
  if (remote_ != nullptr) remote_->ListSessions(response);
  return absl::OkStatus();
}

absl::Status StoreService::Pins(const v1::PinsRequest& request, v1::PinsResponse* response) {
  store_->ListPins(request, response);
  if (remote_ != nullptr) remote_->ListPins(request, response);
  return absl::OkStatus();
}

absl::Status StoreService::Quarantined(const v1::QuarantinedRequest& request, v1::QuarantinedResponse* response) {
  if (absl::Status s = ValidatePrefix(request.prefix()); !s.ok()) return s;
  store_->ListQuarantined(request, response);
  return absl::OkStatus();
}

absl::Status StoreService::RestartNode(const v1::RestartNodeRequest& request, v1::RestartNodeResponse* response) {
  const uint64_t running = store_->generation();
  if (request.generation() == 0 || request.generation() > running) {
    return absl::InvalidArgumentError(StrCat("generation: ", request.generation(), " is not that of the process that runs (", running, ")"));
  }
  response->set_generation(request.generation());
  if (request.generation() < running) return absl::OkStatus();  // asked for again: it has ended
  if (!restart_) return absl::FailedPreconditionError("restart: this node has no warden");
  return restart_();
}

std::optional<absl::Status> StoreService::Wait(const v1::WaitRequest& request, v1::WaitResponse* response) {
  if (absl::Status s = ValidateName(request.name()); !s.ok()) return s;
  if (names_ != nullptr) {
    std::optional<absl::StatusOr<v1::TensorInfo>> came = names_->Await(request.name(), request.version());
    if (!came) return std::nullopt;
    if (came->ok()) *response->mutable_info() = **std::move(came);
    return came->status();
  }
  absl::StatusOr<v1::TensorInfo> info = store_->Stat(request.name(), 0);
  if (!info.ok() && !absl::IsNotFound(info.status())) return info.status();
  if (!info.ok() || info->version().number() < request.version()) return std::nullopt;
  *response->mutable_info() = *std::move(info);
  return absl::OkStatus();
}

std::optional<absl::Status> StoreService::Watch(const v1::WatchRequest& request, v1::WatchResponse* response) {
  if (absl::Status s = ValidatePrefix(request.prefix()); !s.ok()) return s;
  response->Clear();
  const bool whole_cluster = events_ != nullptr && !request.of_homes();
  const bool is_new = request.node_generation() == 0 && request.after_sequence() == 0;
  // A cursor of now that others' events may be missing behind would be none.
  if (whole_cluster && !events_->Watched() && is_new && !request.from_start()) return std::nullopt;
  store_->Events(request, response);
  if (response->events_size() == 0) return std::nullopt;
  return absl::OkStatus();
}

absl::Time StoreService::WaitDeadline(uint64_t timeout_ns) {
  return MonotonicNow() + std::min(absl::Nanoseconds(static_cast<int64_t>(std::min<uint64_t>(timeout_ns, 1'000'000'000))), absl::Seconds(1));
}

absl::Status StoreService::Call(uint32_t method, Session* session, std::string_view in, uint64_t page_bytes, std::string* out) {
  using M = rpc::Method;
  auto bind = [this](auto member) { return [this, member](const auto& q, auto* r) { return (this->*member)(q, r); }; };
  auto with_session = [this, session](auto member) {
    return [this, session, member](const auto& q, auto* r) { return (this->*member)(session, q, r); };
  };
  switch (static_cast<M>(method)) {
    case M::kNodeInfo: return Serve<v1::NodeInfoRequest, v1::NodeInfoResponse>(in, out, bind(&StoreService::NodeInfo));
    case M::kStat: return Serve<v1::StatRequest, v1::StatResponse>(in, out, bind(&StoreService::Stat));
    case M::kLongestPrefix: return Serve<v1::LongestPrefixRequest, v1::LongestPrefixResponse>(in, out, bind(&StoreService::LongestPrefix));
    case M::kDelete: return Serve<v1::DeleteRequest, v1::DeleteResponse>(in, out, bind(&StoreService::Delete));
    case M::kDeletePrefix: return Serve<v1::DeletePrefixRequest, v1::DeletePrefixResponse>(in, out, bind(&StoreService::DeletePrefix));
    case M::kList:
      return Serve<v1::ListRequest, v1::ListResponse>(in, out, [&](const auto& q, auto* r) { return List(q, page_bytes, r); });
    case M::kDf: return Serve<v1::DfRequest, v1::DfResponse>(in, out, bind(&StoreService::Df));
    case M::kSessions: return Serve<v1::SessionsRequest, v1::SessionsResponse>(in, out, bind(&StoreService::Sessions));
    case M::kPins: return Serve<v1::PinsRequest, v1::PinsResponse>(in, out, bind(&StoreService::Pins));
    case M::kAllocate: return Serve<v1::AllocateRequest, v1::AllocateResponse>(in, out, with_session(&StoreService::Allocate));
    case M::kPublish: return Serve<v1::PublishRequest, v1::PublishResponse>(in, out, with_session(&StoreService::Publish));
    case M::kAbort: return Serve<v1::AbortRequest, v1::AbortResponse>(in, out, with_session(&StoreService::Abort));
    case M::kCommit: return Serve<v1::CommitRequest, v1::CommitResponse>(in, out, with_session(&StoreService::Commit));
    case M::kOpenRead: return Serve<v1::OpenReadRequest, v1::OpenReadResponse>(in, out, bind(&StoreService::OpenRead));
    case M::kCloseRead: return absl::OkStatus();  // it has none
    case M::kMeasurePeer: return absl::NotFoundError("peer: this node knows no other one");
    case M::kDrainNode: return absl::FailedPreconditionError("node: this node is in no cluster (--etcd)");
    case M::kMoveTensor: return absl::FailedPreconditionError("move: this node is in no cluster (--etcd)");
    case M::kForgetNode: return absl::NotFoundError("node: none is absent");
    case M::kQuarantined: return Serve<v1::QuarantinedRequest, v1::QuarantinedResponse>(in, out, bind(&StoreService::Quarantined));
    case M::kSettleQuarantined: return absl::NotFoundError("quarantine: this node is in no cluster (--etcd), and has nothing quarantined");
    case M::kRestartNode: return Serve<v1::RestartNodeRequest, v1::RestartNodeResponse>(in, out, bind(&StoreService::RestartNode));
    case M::kWait:
    case M::kWatch: break;
  }
  return absl::UnimplementedError(StrCat("method ", method, " is not known to this node"));
}

}  // namespace penstock::server
