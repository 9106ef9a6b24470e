#include "server/remote/client_reads.h"

#include "proto/names.h"
#include "proto/strcat.h"
#include "server/cluster/set_version.h"
#include "transport/monotonic.h"

namespace penstock::server {

absl::StatusOr<PeerNode::Reader> ClientReads::ReaderOf(const Key& key) {
  {
    std::lock_guard lock(mutex_);
    if (auto it = readers_.find(key); it != readers_.end()) {
      ++it->second.open;
      return it->second.reader;
    }
  }
  absl::StatusOr<PeerNode::Reader> opened = key.second->OpenReader("client");
  if (!opened.ok()) return opened;
  PeerNode::Reader reader;
  {
    std::lock_guard lock(mutex_);
    Entry& entry = readers_.try_emplace(key, Entry{.reader = *opened}).first->second;
    ++entry.open;
    reader = entry.reader;
  }
  if (reader.token != opened->token) key.second->CloseReader(*opened);  // another thread of the client's was faster
  return reader;
}

void ClientReads::Done(const Key& key, std::string_view token) {
  std::lock_guard lock(mutex_);
  auto it = readers_.find(key);
  if (it == readers_.end() || it->second.reader.token != token) return;
  --it->second.open;
  it->second.used = MonotonicNow();
}

void ClientReads::Forget(const Key& key, std::string_view token) {
  std::lock_guard lock(mutex_);
  if (auto it = readers_.find(key); it != readers_.end() && it->second.reader.token == token) readers_.erase(it);
}

ClientReads::Places ClientReads::PlacesOf(const std::string& name, uint64_t version) const {
  if (find_places_) return find_places_(name, version);
  return {.peers = homes_->InOrder(name), .missing = absl::NotFoundError(StrCat("'", name, "': no such tensor, on none of ", homes_->node_count(), " nodes"))};
}

absl::StatusOr<v1::LocateResult> ClientReads::LocateAt(const Key& key, const v1::OpenReadRequest& request, const Places& places, PeerNode::Reader* reader) {
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<PeerNode::Reader> opened = ReaderOf(key);
    if (!opened.ok()) return opened.status();
    *reader = *std::move(opened);
    absl::StatusOr<v1::LocateResult> located = key.second->LocateFor(*reader, request.name(), request.version(), places.op);
    if (located.ok() && places.op.session != 0) SetVersion(places.version, located->mutable_info());
    if (!located.ok() || located->grant() == 0) Done(key, reader->token);
    if (!absl::IsPermissionDenied(located.status()) || attempt > 0) return located;
    Forget(key, reader->token);  // lapsed, or of an earlier process there
  }
}

bool ClientReads::IsHere(const v1::OpenReadRequest& request) const {
  const absl::StatusOr<Published> here = store_->Lookup(request.name(), request.version());
  return here.ok() && (!here->fetched || here->leased || request.version() != 0);
}

bool ClientReads::Answer(const v1::OpenReadRequest& request, const PeerNode::Reader& reader, v1::LocateResult located,
                         v1::OpenReadResponse* response) const {
  const bool by_rdma = request.rdma() && located.has_memory() && !reader.rdma.name().empty();
  if (rdma_only_ && !by_rdma) return false;
  *response->mutable_info() = std::move(*located.mutable_info());
  response->set_grant(located.grant());
  response->set_token(reader.token);
  response->set_data_address(reader.data_address);
  response->set_tls(reader.tls);
  if (!by_rdma) return true;
  v1::RdmaRead* rdma = response->mutable_rdma();
  rdma->set_version(reader.rdma.version());
  rdma->set_worker(reader.rdma.worker());
  rdma->set_address(located.memory().address());
  rdma->set_key(std::move(*located.mutable_memory()->mutable_key()));
  rdma->set_deadline_ns(static_cast<uint64_t>(absl::ToUnixNanos(reader.deadline)));
  rdma->set_only(rdma_only_);
  return true;
}

absl::Status ClientReads::Open(uint64_t session, const v1::OpenReadRequest& request, v1::OpenReadResponse* response) {
  if (absl::Status s = ValidateName(request.name()); !s.ok()) return s;
  if (IsHere(request) || (rdma_only_ && !request.rdma())) {
    response->set_here(true);
    return absl::OkStatus();
  }
  const Places places = PlacesOf(request.name(), request.version());
  if (places.here) {
    response->set_here(true);
    return absl::OkStatus();
  }
  absl::Status missing = places.missing;
  for (const PeerRef& peer : places.peers) {
    const Key key{session, peer};
    if (!request.refused_token().empty()) Forget(key, request.refused_token());
    if (request.whole() && !request.rdma() && peer->reads_by_rdma()) {  // faster by the node
      response->set_here(true);
      return absl::OkStatus();
    }
    PeerNode::Reader reader;
    absl::StatusOr<v1::LocateResult> located = LocateAt(key, request, places, &reader);
    if (!located.ok()) {
      if (!absl::IsNotFound(located.status())) missing = located.status();
      continue;
    }
    homes_->Found(request.name(), peer);
    const uint64_t grant = located->grant();
    if (Answer(request, reader, *std::move(located), response)) return absl::OkStatus();
    if (grant != 0) {
      peer->ReleaseFor(reader, {grant});
      Done(key, reader.token);
    }
    response->set_here(true);
    return absl::OkStatus();
  }
  return missing;
}

absl::Status ClientReads::Close(uint64_t session, const v1::CloseReadRequest& request, v1::CloseReadResponse* response) {
  for (const PeerRef& peer : peers_->Now()) {
    const Key key{session, peer};
    PeerNode::Reader reader;
    {
      std::lock_guard lock(mutex_);
      const auto it = readers_.find(key);
      if (it == readers_.end() || it->second.reader.token != request.token()) continue;
      reader = it->second.reader;
    }
    response->set_deadline_ns(static_cast<uint64_t>(absl::ToUnixNanos(reader.deadline)));
    peer->ReleaseFor(reader, {request.grant()});
    Done(key, reader.token);
    return absl::OkStatus();
  }
  return absl::OkStatus();  // the session there is over, and the grant with it
}

void ClientReads::Renew(const Key& key, const PeerNode::Reader& reader) {
  const absl::StatusOr<absl::Time> deadline = key.second->RenewFor(reader);
  if (absl::IsPermissionDenied(deadline.status())) return Forget(key, reader.token);
  if (!deadline.ok()) return;
  std::lock_guard lock(mutex_);
  if (auto it = readers_.find(key); it != readers_.end() && it->second.reader.token == reader.token) it->second.reader.deadline = *deadline;
}

void ClientReads::Keep() {
  std::map<Key, Entry> all;
  {
    std::lock_guard lock(mutex_);
    all = readers_;
  }
  const absl::Time now = MonotonicNow();
  for (const auto& [key, entry] : all) {
    const bool idle = entry.open == 0 && entry.used < now - kIdle;
    if (idle || store_->FindSession(key.first) == nullptr) {
      Forget(key, entry.reader.token);
      key.second->CloseReader(entry.reader);
    } else {
      Renew(key, entry.reader);
    }
  }
}

}  // namespace penstock::server
