#include "server/remote/remote_store.h"

#include <algorithm>

#include "proto/layout/metadata_codec.h"
#include "proto/layout/name_hash.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kMemoryWait = absl::Seconds(5);
constexpr absl::Duration kRenewEvery = absl::Seconds(1);
constexpr int kRestartAttempts = 5;
constexpr absl::Duration kRestartPause = absl::Milliseconds(600);  // longer than a peer that failed is left alone

absl::StatusOr<CreateSpec> SpecOf(const v1::TensorInfo& info, std::string* metadata) {
  const absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(info.shape().data(), static_cast<size_t>(info.shape_size())));
  if (!shape.ok()) return shape.status();
  *metadata = layout::EncodeMetadata({info.metadata().begin(), info.metadata().end()});
  return CreateSpec{.name = info.name(), .dtype = static_cast<DType>(info.dtype()), .shape = *shape, .nbytes = info.nbytes(),
                    .version = info.version().number(), .keep = false, .metadata = *metadata, .fetched = true, .created_ns = info.created_ns()};
}

// The version's number alone is not enough: a home that has lost its memory, or another home, begins with 1 again.
bool IsOf(const Published& copy, const v1::TensorInfo& original) {
  return copy.version_number == original.version().number() && copy.created_ns == original.created_ns();
}

template <class Request>
absl::Status Parse(const std::string& bytes, Request* request) {
  if (request->ParseFromString(bytes)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("message: not a ", Request::descriptor()->name()));
}

}  // namespace

RemoteStore::RemoteStore(Store* store, LeaseRecall* recall, const std::vector<std::string>& peers, bool may_rdma)
    : store_(store), recall_(recall), writer_(store, "fetch") {
  if (peers.empty()) return;
  absl::StatusOr<std::unique_ptr<RdmaReader>> rdma = absl::NotFoundError("--rdma=off");
  if (may_rdma) rdma = RdmaReader::Open();
  if (rdma.ok()) rdma_ = *std::move(rdma);
  for (const std::string& address : peers) {
    peers_.push_back(std::make_unique<PeerNode>(address, store, rdma_.get(), std::string(rdma.status().message())));
  }
  renewing_ = std::thread([this] { RenewLoop(); });
}

void RemoteStore::AddPeers(v1::NodeInfoResponse* response) const {
  for (const auto& peer : peers_) peer->Tell(response->add_peers());
}

void RemoteStore::Stop() {
  for (const auto& peer : peers_) peer->Stop();
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  jobs_.Stop();
  if (renewing_.joinable()) renewing_.join();
}

void RemoteStore::RenewLoop() {
  while (!PauseOrStop(kRenewEvery)) {
    for (const auto& peer : peers_) peer->Renew();
  }
}

uint64_t RemoteStore::StartGet(std::string name, uint64_t version) {
  return jobs_.Start([this, name = std::move(name), version] {
    const absl::StatusOr<Published> got = Get(name, version);
    return Result{.status = got.status(), .published = got.ok() ? *got : Published{}};
  });
}

uint64_t RemoteStore::StartDelete(std::string name, uint64_t version) {
  return jobs_.Start([this, name = std::move(name), version] {
    const absl::StatusOr<Published> deleted = Delete(name, version);
    return Result{.status = deleted.status(), .published = deleted.ok() ? *deleted : Published{}};
  });
}

uint64_t RemoteStore::StartPublish(std::shared_ptr<Session> session, layout::RecordRef record, uint64_t record_seq, std::string order) {
  return jobs_.Start([this, session = std::move(session), record, record_seq] {
    // Its client may have died since it asked: the draft went with the session.
    const absl::StatusOr<Published> published =
        session != nullptr ? Publish(*session, record, record_seq) : absl::StatusOr<Published>(absl::UnavailableError("the session has ended"));
    return Result{.status = published.status(), .published = published.ok() ? *published : Published{}};
  }, std::move(order));
}

bool RemoteStore::Concerns(rpc::Method method) {
  return method == rpc::Method::kStat || method == rpc::Method::kLongestPrefix || method == rpc::Method::kDeletePrefix ||
         method == rpc::Method::kList;
}

uint64_t RemoteStore::StartCall(rpc::Method method, std::string message, uint64_t page_bytes) {
  return jobs_.Start([this, method, message = std::move(message), page_bytes] {
    Result result;
    auto serve = [&](auto request, auto response, auto handler) {
      result.status = Parse(message, &request);
      if (result.status.ok()) result.status = handler(request, &response);
      if (result.status.ok()) response.SerializeToString(&result.response);
    };
    switch (method) {
      case rpc::Method::kStat:
        serve(v1::StatRequest(), v1::StatResponse(), [this](const auto& q, auto* r) { return Stat(q, r); });
        break;
      case rpc::Method::kLongestPrefix:
        serve(v1::LongestPrefixRequest(), v1::LongestPrefixResponse(), [this](const auto& q, auto* r) { return LongestPrefix(q, r); });
        break;
      case rpc::Method::kDeletePrefix:
        serve(v1::DeletePrefixRequest(), v1::DeletePrefixResponse(), [this](const auto& q, auto* r) { return DeletePrefix(q, r); });
        break;
      case rpc::Method::kList:
        serve(v1::ListRequest(), v1::ListResponse(), [this, page_bytes](const auto& q, auto* r) { return List(q, page_bytes, r); });
        break;
      default: result.status = absl::UnimplementedError("no such remote call");
    }
    return result;
  });
}

// Whoever has it as its own. NOT_FOUND is only said when everybody has said so.
absl::StatusOr<RemoteStore::Holder> RemoteStore::FindHolder(const std::string& name, const PeerNode::Wanted& wanted) {
  absl::Status unanswered;
  absl::Status missing = absl::NotFoundError(StrCat("'", name, "': no such tensor, on none of ", peers_.size() + 1, " nodes"));
  for (const auto& peer : peers_) {
    absl::StatusOr<PeerNode::Found> found = peer->Locate(name, wanted);
    if (found.ok()) return Holder{peer.get(), *std::move(found)};
    if (!absl::IsNotFound(found.status())) unanswered = found.status();
  }
  return unanswered.ok() ? missing : unanswered;
}

absl::StatusOr<Published> RemoteStore::Get(const std::string& name, uint64_t version) {
  absl::StatusOr<Published> got = GetOnce(name, version);
  // Whose process was replaced in the middle is asked again; who is gone says so at once.
  return absl::IsUnavailable(got.status()) ? GetOnce(name, version) : got;
}

absl::StatusOr<Published> RemoteStore::GetOnce(const std::string& name, uint64_t version) {
  const absl::StatusOr<Published> here = store_->Lookup(name, version);
  if (here.ok() && (!here->fetched || here->leased || version != 0)) return here;
  const absl::StatusOr<Holder> holder = FindHolder(name, {.version = version, .have_version = here.ok() ? here->version_number : 0,
                                                          .have_created_ns = here.ok() ? here->created_ns : 0, .lease = version == 0});
  if (!holder.ok()) {
    if (absl::IsNotFound(holder.status()) && version == 0) store_->DropCopy(name);
    return holder.status();
  }
  absl::StatusOr<Published> got = here;
  if (!here.ok() || !IsOf(*here, holder->found.info)) got = CopyOnce(name, *holder);
  holder->peer->Release(holder->found);
  if (got.ok() && got->fetched) holder->peer->TakeLease(holder->found, *got);
  return got;
}

// Single-flight: the first one copies, the others wait for it.
absl::StatusOr<Published> RemoteStore::CopyOnce(const std::string& name, const Holder& holder) {
  const v1::TensorInfo& original = holder.found.info;
  const std::tuple<std::string, uint64_t, uint64_t> what{name, original.version().number(), original.created_ns()};
  std::shared_ptr<Copying> copying;
  bool mine = false;
  {
    std::unique_lock lock(mutex_);
    std::shared_ptr<Copying>& slot = copying_[what];
    mine = slot == nullptr;
    if (mine) slot = std::make_shared<Copying>();
    copying = slot;
    if (!mine) {
      changed_.wait(lock, [&] { return copying->done; });
      return copying->result;
    }
  }
  absl::StatusOr<Published> result = store_->Lookup(name, original.version().number());  // somebody may just have been done
  if (!result.ok() || !IsOf(*result, original)) result = Copy(name, holder);
  {
    std::lock_guard lock(mutex_);
    copying->result = result;
    copying->done = true;
    copying_.erase(what);
  }
  changed_.notify_all();
  return result;
}

absl::StatusOr<Published> RemoteStore::Copy(const std::string& name, const Holder& holder) {
  std::string metadata;
  const absl::StatusOr<CreateSpec> spec = SpecOf(holder.found.info, &metadata);
  if (!spec.ok()) return spec.status();
  const absl::StatusOr<Placed> placed = writer_.Reserve(*spec, kMemoryWait);
  if (!placed.ok()) return placed.status();
  if (absl::Status s = holder.peer->Read(holder.found, placed->block.address); !s.ok()) {
    writer_.Abort(*placed);
    return s;
  }
  return writer_.Publish(*placed);
}

// Publishes a draft of this node where its name is at home: here, if nobody has the name.
absl::StatusOr<Published> RemoteStore::Publish(Session& session, layout::RecordRef record, uint64_t record_seq) {
  const auto publish_here = [&](LeaseRule leases) { return store_->Publish(session, record, record_seq, leases); };
  if (store_->HasOwnNameOf(record)) return recall_->Change(store_->DraftName(record), publish_here);
  const absl::StatusOr<Store::TakenDraft> draft = store_->TakeDraft(session, record, record_seq);
  if (!draft.ok()) return store_->Publish(session, record, record_seq);  // knows what was published before, or says what is wrong
  const absl::StatusOr<Published> original = PublishAtHome(session, *draft);
  if (absl::IsNotFound(original.status())) {
    store_->DropCopy(draft->spec.name());  // of what its home has deleted
    return recall_->Change(draft->spec.name(), [&](LeaseRule leases) { return store_->PublishTaken(record, leases); });
  }
  if (!original.ok()) {
    store_->DropTaken(record);
    return original;
  }
  PENSTOCK_FAULT_POINT("node.remote.published");
  absl::StatusOr<Published> copy = store_->PublishAsCopy(record, *original);
  if (!copy.ok()) return original;  // this node has got a tensor of that name meanwhile
  copy->home = original->home;
  return copy;
}

// NOT_FOUND: no other node has the name.
absl::StatusOr<Published> RemoteStore::PublishAtHome(const Session& session, const Store::TakenDraft& draft) {
  const uint64_t key = RequestKey(session, draft.request_id);
  absl::Status unanswered;
  for (const auto& peer : peers_) {
    const absl::StatusOr<PeerNode::Reserved> reserved = peer->ReserveIfHome(draft.spec, key);
    if (absl::IsNotFound(reserved.status())) continue;
    if (absl::IsUnavailable(reserved.status())) {
      unanswered = reserved.status();
      continue;
    }
    if (!reserved.ok()) return reserved.status();
    return PublishAt(*peer, *reserved, draft, key);
  }
  return unanswered.ok() ? absl::NotFoundError(StrCat("'", draft.spec.name(), "': on no other node")) : unanswered;
}

// A home whose process is replaced meanwhile is asked again: it knows by the key what it has published.
absl::StatusOr<Published> RemoteStore::PublishAt(PeerNode& peer, PeerNode::Reserved reserved, const Store::TakenDraft& draft, uint64_t key) {
  for (int attempt = 0;; ++attempt) {
    const absl::StatusOr<Published> published = WriteAndPublish(peer, reserved, draft);
    if (!absl::IsUnavailable(published.status()) || attempt == kRestartAttempts || key == 0) return published;
    absl::StatusOr<PeerNode::Reserved> again = published.status();
    for (int i = 0; i < kRestartAttempts && absl::IsUnavailable(again.status()); ++i) {
      if (PauseOrStop(kRestartPause)) return published;
      again = peer.ReserveIfHome(draft.spec, key);
    }
    if (!again.ok()) return published;
    reserved = *std::move(again);
  }
}

absl::StatusOr<Published> RemoteStore::WriteAndPublish(PeerNode& peer, const PeerNode::Reserved& reserved, const Store::TakenDraft& draft) {
  if (reserved.published) return *reserved.published;
  PENSTOCK_FAULT_POINT("node.remote.reserved");
  if (absl::Status s = peer.Write(reserved, {draft.data, draft.nbytes}); !s.ok()) {
    peer.Abort(reserved);
    return s;
  }
  PENSTOCK_FAULT_POINT("node.remote.written");
  return peer.Publish(reserved);
}

bool RemoteStore::PauseOrStop(absl::Duration pause) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; });
}

// The same for a request that is made again after this node's process was replaced, and no other's. 0: not told apart.
uint64_t RemoteStore::RequestKey(const Session& session, uint64_t request_id) const {
  if (request_id == 0) return 0;
  const uint64_t both[] = {session.id, request_id};
  return layout::HashName(reinterpret_cast<const char*>(both), sizeof(both), store_->header()->hash_key) | 1;  // the key is this node's alone
}

absl::StatusOr<Published> RemoteStore::Delete(const std::string& name, uint64_t version) {
  const absl::StatusOr<Published> here = recall_->Change(name, [&](LeaseRule leases) { return store_->Delete(name, version, leases); });
  if (!absl::IsNotFound(here.status())) return here;
  v1::DeleteRequest request;
  request.add_items()->set_name(name);
  request.mutable_items(0)->set_version(version);
  absl::Status unanswered;
  for (const auto& peer : peers_) {
    v1::DeleteResponse response;
    const absl::Status asked = peer->Ask(&v1::Store::Stub::Delete, request, &response);
    if (!asked.ok()) {
      unanswered = asked;
      continue;
    }
    if (response.results_size() != 1 || response.results(0).code() == static_cast<int>(absl::StatusCode::kNotFound)) continue;
    if (response.results(0).code() != 0) return absl::Status(static_cast<absl::StatusCode>(response.results(0).code()), response.results(0).message());
    store_->DropCopy(name);
    return Published{};
  }
  return unanswered.ok() ? here : unanswered;
}

// Items that are not here are asked of all peers, in one call each.
absl::Status RemoteStore::Stat(const v1::StatRequest& request, v1::StatResponse* response) {
  std::vector<int> missing;
  for (int i = 0; i < request.items_size(); ++i) {
    v1::TensorResult* result = response->add_results();
    absl::Status status = ValidateName(request.items(i).name());
    if (status.ok()) {
      absl::StatusOr<v1::TensorInfo> info = store_->Stat(request.items(i).name(), request.items(i).version());
      status = info.status();
      if (info.ok()) *result->mutable_info() = *std::move(info);
    }
    result->mutable_status()->set_code(static_cast<int>(status.code()));
    result->mutable_status()->set_message(std::string(status.message()));
    if (absl::IsNotFound(status)) missing.push_back(i);
  }
  for (const auto& peer : peers_) {
    if (missing.empty()) break;
    v1::StatRequest ask;
    for (int i : missing) *ask.add_items() = request.items(i);
    v1::StatResponse answer;
    const absl::Status asked = peer->Ask(&v1::Store::Stub::Stat, ask, &answer);
    std::vector<int> still;
    for (size_t k = 0; k < missing.size(); ++k) {
      v1::TensorResult* result = response->mutable_results(missing[k]);
      const bool answered = asked.ok() && static_cast<int>(k) < answer.results_size();
      if (answered && answer.results(static_cast<int>(k)).status().code() == 0) {
        *result = answer.results(static_cast<int>(k));
        result->mutable_info()->clear_location();
        continue;
      }
      if (!answered) {  // not found would be more than is known
        result->mutable_status()->set_code(static_cast<int>(absl::StatusCode::kUnavailable));
        result->mutable_status()->set_message(std::string(asked.message()));
      }
      still.push_back(missing[k]);
    }
    missing = std::move(still);
  }
  return absl::OkStatus();
}

absl::Status RemoteStore::LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response) {
  v1::StatRequest ask;
  for (const std::string& name : request.names()) {
    if (absl::Status s = ValidateName(name); !s.ok()) return s;
    ask.add_items()->set_name(name);
  }
  v1::StatResponse answer;
  if (absl::Status s = Stat(ask, &answer); !s.ok()) return s;
  uint32_t count = 0;
  for (const v1::TensorResult& result : answer.results()) {
    const auto code = static_cast<absl::StatusCode>(result.status().code());
    if (code == absl::StatusCode::kNotFound) break;
    if (code != absl::StatusCode::kOk) return absl::Status(code, result.status().message());  // a shorter one would be a guess
    ++count;
  }
  response->set_count(count);
  return absl::OkStatus();
}

absl::Status RemoteStore::DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response) {
  const absl::StatusOr<uint64_t> here = recall_->DeletePrefix(request.prefix());
  if (!here.ok()) return here.status();
  response->set_count(*here);
  for (const auto& peer : peers_) {
    v1::DeletePrefixResponse answer;
    if (absl::Status s = peer->Ask(&v1::Store::Stub::DeletePrefix, request, &answer); !s.ok()) return s;
    response->set_count(response->count() + answer.count());
  }
  return absl::OkStatus();
}

// A page of the names of all nodes, in order: the first names of each, merged, as far as no node has more before them.
absl::Status RemoteStore::List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response) {
  std::vector<v1::ListResponse> pages(1);
  store_->List(request, page_bytes, &pages[0]);
  for (const auto& peer : peers_) {
    if (absl::Status s = peer->Ask(&v1::Store::Stub::List, request, &pages.emplace_back()); !s.ok()) return s;
  }
  std::map<std::string, v1::TensorInfo*> items;  // of two nodes that have a name, this one's
  std::optional<std::string> end;                // beyond it, somebody may have names that were not told
  for (v1::ListResponse& page : pages) {
    for (v1::TensorInfo& item : *page.mutable_items()) items.emplace(item.name(), &item);
    if (page.more() && page.items_size() > 0 && (!end || page.items().rbegin()->name() < *end)) end = page.items().rbegin()->name();
  }
  const uint64_t limit = request.limit() == 0 ? 1000 : request.limit();
  uint64_t bytes = 0;
  for (auto& [name, item] : items) {
    if ((end && name > *end) || static_cast<uint64_t>(response->items_size()) >= limit || bytes >= page_bytes) {
      response->set_more(true);
      return absl::OkStatus();
    }
    bytes += item->ByteSizeLong() + 8;
    *response->add_items() = std::move(*item);
  }
  response->set_more(end.has_value());
  return absl::OkStatus();
}

}  // namespace penstock::server
