// What the ring's operations do: decode, call the store, answer.
#include <algorithm>
#include <utility>

#include "proto/names.h"
#include "proto/rpc_methods.h"
#include "proto/strcat.h"
#include "server/ring/ring_server.h"
#include "transport/checksum/crc32c.h"
#include "transport/copy/copy.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kRemoteWait = absl::Seconds(60);
constexpr absl::Duration kRepeatedWithin = absl::Seconds(1);

layout::CreateResponse ToResponse(const Published& published) {
  layout::CreateResponse response{.version_number = published.version_number, .version_term = published.version_term, .record = published.record,
                                  .record_seq = published.record_seq, .created_ns = published.created_ns};
  std::copy(published.home.begin(), published.home.end(), response.home);
  return response;
}

layout::LookupResponse ToLookup(const Published& published) {
  return {.record = published.record, .version_term = published.version_term, .record_seq = published.record_seq,
          .version_number = published.version_number};
}

// For leases, or homes.
bool MayWait(rpc::Method method) {
  return method == rpc::Method::kPublish || method == rpc::Method::kDelete || method == rpc::Method::kDeletePrefix || method == rpc::Method::kCommit;
}

// The checksum is of what the node has: the client may write its ring meanwhile.
void CopyStaged(const Placed& placed, const char* data) {
  if (placed.nbytes == 0) return;
  if (placed.checksum != nullptr) {
    *placed.checksum = {CopyBytesCrc32c(placed.block.address, data, placed.nbytes), layout::ChecksumState::kKnown};
  } else {
    CopyBytes(placed.block.address, data, placed.nbytes);
  }
}

// For another process: of this thread's time it would take too much.
bool IsSlow(rpc::Method method) { return method == rpc::Method::kRestartNode; }

absl::Status StillNoMemory() {
  return absl::ResourceExhaustedError(
      "the store is full: memory that was given up is still mapped by another session, or could not be made ready in 5 s; try again, "
      "or look at `penstock df` and `penstock sessions`");
}

}  // namespace

RingServer::Outcome RingServer::Execute(Session& session, const RingRequest& request, bool last_chance, Parking* parking) {
  switch (request.op) {
    case layout::RingOp::kPut: return Put(session, request, last_chance, parking);
    case layout::RingOp::kReserve: return Reserve(session, request, last_chance, parking);
    case layout::RingOp::kPublish: {
      const absl::StatusOr<layout::DraftRequest> draft = ParseDraft(request);
      if (draft.ok()) return Publish(session, request, *draft, last_chance, parking);
      Respond(request, draft.status(), {});
      return Outcome::kAnswered;
    }
    case layout::RingOp::kAbort: {
      const absl::StatusOr<layout::DraftRequest> draft = ParseDraft(request);
      Respond(request, draft.ok() ? service_->store()->Abort(session, draft->record, draft->record_seq) : draft.status(), {});
      return Outcome::kAnswered;
    }
    case layout::RingOp::kLookup:
    case layout::RingOp::kDelete: return Find(session, request, last_chance, parking);
    case layout::RingOp::kCall: return Call(session, request, last_chance, parking);
  }
  Respond(request, absl::InvalidArgumentError(StrCat("op: ", static_cast<uint32_t>(request.op), " is not known to this node")), {});
  return Outcome::kAnswered;
}

std::optional<RemoteStore::Result> RingServer::Remote(bool last_chance, Parking* parking, const std::function<uint64_t()>& start) {
  if (!parking->asked) {
    *parking = {.until = MonotonicNow() + kRemoteWait, .name_hash = start(), .asked = true};
    return std::nullopt;
  }
  if (std::optional<RemoteStore::Result> result = remote_->Take(parking->name_hash)) return result;
  if (!last_chance) return std::nullopt;
  return RemoteStore::Result{.status = absl::DeadlineExceededError("the other nodes have not answered in time"), .published = {}, .response = {}};
}

// kLookup and kDelete.
RingServer::Outcome RingServer::Find(const Session& session, const RingRequest& request, bool last_chance, Parking* parking) {
  uint64_t version = 0;
  const absl::StatusOr<std::string_view> name = ParseLookup(request, &version);
  if (absl::Status s = name.ok() ? ValidateName(*name) : name.status(); !s.ok()) {
    Respond(request, s, AsBytes(layout::LookupResponse{}));
    return Outcome::kAnswered;
  }
  const bool is_delete = request.op == layout::RingOp::kDelete;
  absl::StatusOr<Published> found = absl::UnknownError("");
  const bool homes_delete = is_delete && ByDirectory();
  if (!parking->asked && !homes_delete) found = is_delete ? service_->store()->Delete(*name, version) : service_->store()->LookupResident(*name, version);
  if (IsReturning(found.status()) && !last_chance) {
    if (parking->until == absl::InfiniteFuture()) *parking = {.until = MonotonicNow() + Store::kSpillPatience, .name_hash = service_->store()->NameHash(*name)};
    return Outcome::kPark;
  }
  // A copy may be out of date, unless it is asked for by its version.
  const bool elsewhere = HasPeers() && (found.ok() ? found->fetched && !found->leased && version == 0 : absl::IsNotFound(found.status()));
  if (parking->asked || elsewhere || homes_delete || IsLeased(found.status())) {
    const std::optional<RemoteStore::Result> result = Remote(last_chance, parking, [&] {
      return is_delete ? remote_->StartDelete(std::string(*name), version) : remote_->StartGet(std::string(*name), version, session.peer.require_rdma);
    });
    if (!result) return Outcome::kPark;
    found = result->status.ok() ? absl::StatusOr<Published>(result->published) : result->status;
    if (!is_delete && found.ok() && found->spilled && !last_chance) {  // it went in between, and cannot be pinned
      *parking = {};
      return Find(session, request, last_chance, parking);
    }
    // What lay in the ring of a session when this process began may have been done by the one before: then it would be gone by now.
    const bool may_be_repeated = session.inherited && parking->until - kRemoteWait < started_ + kRepeatedWithin;
    if (homes_delete && may_be_repeated && absl::IsNotFound(found.status())) {
      found = absl::UnavailableError(StrCat("delete '", *name, "': this node was restarted in the middle of it; it is not there now"));
    }
  }
  const layout::LookupResponse response = found.ok() ? ToLookup(*found) : layout::LookupResponse{};
  Respond(request, found.status(), AsBytes(response));
  if (is_delete) PENSTOCK_FAULT_POINT("node.delete.answered");
  return Outcome::kAnswered;
}

// A name has one home: what is put here under the name of another node's tensor is published there.
RingServer::Outcome RingServer::Publish(Session& session, const RingRequest& request, const layout::DraftRequest& draft, bool last_chance,
                                        Parking* parking) {
  Store* const store = service_->store();
  absl::StatusOr<Published> published = absl::UnknownError("");
  const auto order = [&] { return StrCat(session.id, "/", store->DraftName(draft.record)); };
  bool later = parking->asked || ByDirectory() || (remote_ != nullptr && store->WantsChecksum(draft.record)) || (HasPeers() && !store->HasOwnNameOf(draft.record)) || (remote_ != nullptr && remote_->Publishing(order));
  if (!later) {
    published = store->Publish(session, draft.record, draft.record_seq);
    later = IsLeased(published.status());
  }
  if (later) {
    const std::optional<RemoteStore::Result> result = Remote(last_chance, parking, [&] {
      if (const auto begun = BegunBefore(session, draft)) return remote_->StartAwaitPut(begun->first, begun->second);
      return remote_->StartPublish(store->FindSession(session.id), draft.record, draft.record_seq, order());
    });
    if (!result) return Outcome::kPark;
    published = result->status.ok() ? absl::StatusOr<Published>(result->published) : result->status;
  }
  const bool is_put = request.op == layout::RingOp::kPut;
  if (is_put) PENSTOCK_FAULT_POINT("node.put.published");
  const layout::CreateResponse response = published.ok() ? ToResponse(*published) : layout::CreateResponse{};
  Respond(request, published.status(), AsBytes(response));
  if (is_put) PENSTOCK_FAULT_POINT("node.put.answered");
  return Outcome::kAnswered;
}

// An earlier process of this node has begun to publish the draft.
std::optional<std::pair<std::string, directory::OpId>> RingServer::BegunBefore(const Session& session, const layout::DraftRequest& draft) const {
  if (!ByDirectory() || !session.inherited) return std::nullopt;
  const std::optional<directory::OpId> op = service_->store()->OpOfDraft(session, draft.record, draft.record_seq);
  if (!op) return std::nullopt;
  return std::pair(service_->store()->DraftName(draft.record), *op);
}

// A draft for a kPut or kReserve. Nothing when memory is on its way: the request is to be parked.
std::optional<absl::StatusOr<Placed>> RingServer::Place(Session& session, const absl::StatusOr<CreateSpec>& spec,
                                                        bool last_chance, Parking* parking) {
  if (!spec.ok()) return spec.status();
  CreateSpec judged = *spec;
  // Conditions are the home's business; if that may be another node, they wait until the draft is published.
  judged.judged_later = ByDirectory() || (HasPeers() && !service_->store()->HasOwn(spec->name));
  absl::StatusOr<Placed> placed = service_->store()->Reserve(session, judged);
  if (!placed.ok() || placed->kind != Placed::Kind::kWait) return placed;
  const bool makes_room = last_chance && service_->store()->MakesRoom();
  if (last_chance && parking->until != absl::InfiniteFuture() && !makes_room) return StillNoMemory();
  if (parking->until == absl::InfiniteFuture() || makes_room) parking->until = MonotonicNow() + Store::kMemoryWait;
  return std::nullopt;
}

RingServer::Outcome RingServer::Put(Session& session, const RingRequest& request, bool last_chance, Parking* parking) {
  if (parking->asked) return Publish(session, request, {}, last_chance, parking);
  const char* data = nullptr;
  const absl::StatusOr<CreateSpec> spec = ParseCreate(request, &data);
  if (spec.ok() && ByDirectory() && session.inherited) {
    if (const auto op = service_->store()->OpOfRequest(spec->name, session, spec->request_id)) {
      (void)Remote(last_chance, parking, [&] { return remote_->StartAwaitPut(std::string(spec->name), *op); });
      return Outcome::kPark;
    }
  }
  const std::optional<absl::StatusOr<Placed>> place = Place(session, spec, last_chance, parking);
  if (!place) return Outcome::kPark;
  if (!place->ok()) {
    Respond(request, place->status(), {});
    return Outcome::kAnswered;
  }
  const Placed& placed = **place;
  const bool done = placed.kind == Placed::Kind::kDone;
  PENSTOCK_FAULT_POINT("node.put.reserved");
  if (!done) CopyStaged(placed, data);
  PENSTOCK_FAULT_POINT("node.put.copied");
  return Publish(session, request, {placed.record, 0, done ? placed.record_seq - 1 : placed.record_seq}, last_chance, parking);
}

RingServer::Outcome RingServer::Reserve(Session& session, const RingRequest& request, bool last_chance,
                                        Parking* parking) {
  const char* data = nullptr;
  const absl::StatusOr<CreateSpec> spec = ParseCreate(request, &data);
  const std::optional<absl::StatusOr<Placed>> place = Place(session, spec, last_chance, parking);
  if (!place) return Outcome::kPark;
  layout::CreateResponse response{};
  if (place->ok()) {
    const Placed& placed = **place;
    response.record = placed.record;
    response.record_seq = placed.record_seq;
    response.segment = placed.block.segment;
    response.offset = placed.block.offset;
    response.need_extent_bytes = placed.need_extent_bytes;
  }
  Respond(request, place->status(), AsBytes(response));
  return Outcome::kAnswered;
}

RingServer::Outcome RingServer::Call(Session& session, const RingRequest& request, bool last_chance, Parking* parking) {
  uint32_t method = 0;
  const absl::StatusOr<std::string_view> message = ParseCall(request, &method);
  std::string response;
  absl::Status status = message.status();
  if (status.ok() && method == static_cast<uint32_t>(rpc::Method::kWait)) {
    v1::WaitRequest wait;
    v1::WaitResponse found;
    if (!wait.ParseFromArray(message->data(), static_cast<int>(message->size()))) {
      status = absl::InvalidArgumentError("message: not a WaitRequest");
    } else {
      if (parking->until == absl::InfiniteFuture()) {
        *parking = {.until = StoreService::WaitDeadline(wait.timeout_ns()), .name_hash = service_->store()->NameHash(wait.name())};
      }
      const std::optional<absl::Status> ready = service_->Wait(wait, &found);
      if (!ready && !last_chance) return Outcome::kPark;
      status = ready.value_or(absl::DeadlineExceededError(StrCat("wait '", wait.name(), "': it has not come yet")));
      found.SerializeToString(&response);
    }
  } else if (status.ok() && method == static_cast<uint32_t>(rpc::Method::kWatch)) {
    v1::WatchRequest watch;
    v1::WatchResponse events;
    if (!watch.ParseFromArray(message->data(), static_cast<int>(message->size()))) {
      status = absl::InvalidArgumentError("message: not a WatchRequest");
    } else {
      if (parking->until == absl::InfiniteFuture()) parking->until = StoreService::WaitDeadline(watch.timeout_ns());
      const std::optional<absl::Status> ready = service_->Watch(watch, &events);
      if (!ready && !last_chance) return Outcome::kPark;
      status = ready.value_or(absl::OkStatus());  // none yet: the cursor
      events.SerializeToString(&response);
    }
  } else if (status.ok() && HasPeers() && RemoteStore::Concerns(static_cast<rpc::Method>(method))) {
    std::optional<RemoteStore::Result> result = Remote(last_chance, parking, [&] {
      return remote_->StartCall(static_cast<rpc::Method>(method), session.id, std::string(*message), request.response_capacity / 2);
    });
    if (!result) return Outcome::kPark;
    status = std::move(result->status);
    response = std::move(result->response);
  } else if (status.ok() && (parking->asked || (remote_ != nullptr && IsSlow(static_cast<rpc::Method>(method))) ||
                             (MayWait(static_cast<rpc::Method>(method)) && (ByDirectory() || service_->store()->may_be_leased())))) {
    std::optional<RemoteStore::Result> result = Remote(last_chance, parking, [&] {
      return remote_->StartWork([service = service_, method, owner = service_->store()->FindSession(session.id), text = std::string(*message),
                                 room = request.response_capacity / 2] {
        RemoteStore::Result called;
        called.status = service->Call(method, owner.get(), text, room, &called.response);
        return called;
      });
    });
    if (!result) return Outcome::kPark;
    status = std::move(result->status);
    response = std::move(result->response);
  } else if (status.ok()) {
    // Half of the room for the response: a page may pass its limit by one item.
    status = service_->Call(method, &session, *message, request.response_capacity / 2, &response);
  }
  Respond(request, status, response);
  return Outcome::kAnswered;
}

}  // namespace penstock::server
