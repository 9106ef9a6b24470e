// Sessions of the store: opened, kept by the warden, ended.
#include <utility>

#include "proto/strcat.h"
#include "server/store/store.h"
#include "transport/fault_point.h"

namespace penstock::server {

absl::StatusOr<std::shared_ptr<Session>> Store::OpenSession(const SessionPeer& peer, UniqueFd socket) {
  uint64_t id = 0;
  {
    std::lock_guard lock(mutex_);
    if (sessions_.size() >= limits_.max_sessions) {
      return absl::ResourceExhaustedError(StrCat("the node has ", sessions_.size(), " sessions, the most it may (--max_sessions); close some"));
    }
    id = header_->last_session.fetch_add(1) + 1;
  }
  absl::StatusOr<std::shared_ptr<Session>> session = Session::Create(id, peer, std::move(socket));
  if (!session.ok()) return session;
  std::lock_guard lock(mutex_);
  sessions_[id] = *session;
  Changed();
  return session;
}

// A pin table is its client's memory: what can be limited is how large it may become.
absl::Status Store::CheckPinRoom(uint64_t chunks) const {
  if (limits_.max_pins == 0) return absl::OkStatus();
  uint64_t room = 0;
  for (const auto& [id, session] : sessions_) room += session->pins().size() * layout::kPinsPerChunk;
  if (room + chunks * layout::kPinsPerChunk <= limits_.max_pins) return absl::OkStatus();
  return absl::ResourceExhaustedError(StrCat("pins: the ", sessions_.size(), " sessions of this node have room for ", room, ", and ", chunks * layout::kPinsPerChunk,
                                             " more would pass the most that it may give (--max_pins=", limits_.max_pins, "); release views, or close sessions"));
}

absl::Status Store::AddRing(Session& session) {
  std::lock_guard lock(mutex_);
  if (session.has_ring()) return absl::OkStatus();
  if (absl::Status s = session.OpenRing(); !s.ok()) return s;
  if (session.pins().empty()) {
    if (absl::Status s = CheckPinRoom(1); !s.ok()) return s;
    if (absl::StatusOr<uint32_t> chunk = session.GrowPins(); !chunk.ok()) return chunk.status();
  }
  return warden_->KeepSession(session.id, session.Blob(), session.Descriptors());
}

absl::StatusOr<uint32_t> Store::GrowPins(Session& session) {
  std::lock_guard lock(mutex_);
  if (absl::Status s = CheckPinRoom(1); !s.ok()) return s;
  absl::StatusOr<uint32_t> chunk = session.GrowPins();
  if (!chunk.ok()) return chunk;
  if (absl::Status s = warden_->AddSessionFd(session.id, session.pins().back().fd.get()); !s.ok()) return s;
  return chunk;
}

absl::Status Store::AddForkedPins(Session& child, std::vector<UniqueFd> chunks) {
  std::lock_guard lock(mutex_);
  if (absl::Status s = CheckPinRoom(chunks.size()); !s.ok()) return s;
  for (UniqueFd& chunk : chunks) {
    if (absl::Status s = child.AddPinChunk(std::move(chunk)); !s.ok()) return s;
  }
  return warden_->KeepSession(child.id, child.Blob(), child.Descriptors());
}

void Store::EndSession(uint64_t id) {
  PENSTOCK_FAULT_POINT("node.session.ending");
  std::lock_guard lock(mutex_);
  auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  std::shared_ptr<Session> session = std::move(it->second);
  sessions_.erase(it);  // its pins are not scanned any more
  session->ended = true;
  for (layout::RecordRef draft : session->drafts) FreeDraft(draft);
  session->drafts.clear();
  RemoveBound(*session, {});
  std::vector<uint32_t> unsealed;
  for (const auto& [segment, opening] : opening_extents_) {
    if (opening.session == id) unsealed.push_back(segment);
  }
  for (uint32_t segment : unsealed) {
    blocks_.CancelReservation(opening_extents_[segment].reserved_bytes);
    opening_extents_.erase(segment);
    shared_.Drop(segment);
  }
  blocks_.SessionEnded(id);
  warden_->DropSession(id).IgnoreError();
  Reclaim();
  GiveBackEmptySegments(/*keep_arena_bytes=*/limits_.memory_bytes / 2, /*of_live_sessions=*/false);
  StartAdoption();
  Changed();
}

std::shared_ptr<Session> Store::FindSession(uint64_t id) const {
  std::lock_guard lock(mutex_);
  auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second;
}

std::shared_ptr<Session> Store::FindSessionByToken(std::string_view token) const {
  std::lock_guard lock(mutex_);
  for (const auto& [id, session] : sessions_) {
    const std::string_view own(reinterpret_cast<const char*>(session->token.data()), session->token.size());
    if (own == token) return session;
  }
  return nullptr;
}

}  // namespace penstock::server
