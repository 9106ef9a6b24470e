#include "server/remote/remote_puts.h"

#include <iterator>
#include <map>
#include <thread>
#include <utility>

#include "proto/errors.h"
#include "proto/layout/name_hash.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock::server {

namespace {
constexpr int kRestartAttempts = 5;
constexpr absl::Duration kRestartPause = absl::Milliseconds(600);  // longer than a peer that failed is left alone
}  // namespace

void RemotePuts::Publish(const std::vector<Item>& items) {
  std::vector<Going> going;
  std::vector<const Item*> here;
  for (const Item& item : items) {
    if (item.session == nullptr) {  // its client has died since it asked: the draft went with the session
      Finish(item.key, absl::UnavailableError("the session has ended"));
      continue;
    }
    absl::StatusOr<Store::TakenDraft> draft = absl::NotFoundError("");
    const bool own = store_->HasOwnNameOf(item.record);
    if (!own || store_->WantsChecksum(item.record)) draft = store_->TakeDraft(*item.session, item.record, item.record_seq);
    if (!draft.ok()) {
      here.push_back(&item);  // the store knows what was published before, or says what is wrong
      continue;
    }
    (void)FinishChecksum(draft->checksum, draft->data, draft->nbytes);  // it is nobody's copy
    if (own) {
      PublishTakenHere(item.key, *draft);
      continue;
    }
    const uint64_t request_key = RequestKey(*item.session, draft->request_id);
    going.push_back({.key = item.key, .draft = *std::move(draft), .request_key = request_key, .require_rdma = require_rdma_ || item.session->peer.require_rdma});
  }
  PublishHere(here);
  FindHomes(&going);
  GiveHomes(&going);
  PublishAll(&going);
}

void RemotePuts::PublishHere(const std::vector<const Item*>& items) {
  std::vector<std::string> names;
  for (const Item* item : items) names.push_back(store_->DraftName(item->record));
  const std::vector<absl::StatusOr<Published>> results = recall_->ChangeMany(
      names, [&](size_t i, LeaseRule leases) { return store_->Publish(*items[i]->session, items[i]->record, items[i]->record_seq, leases); });
  for (size_t i = 0; i < items.size(); ++i) Finish(items[i]->key, results[i]);
}

void RemotePuts::PublishTakenHere(uint64_t key, const Store::TakenDraft& draft) {
  Finish(key, recall_->Change(draft.spec.name(), [&](LeaseRule leases) { return store_->PublishTaken(draft.record, leases); }));
}

// A peer that is not the home of a name says NOT_FOUND and has changed nothing. If nobody else could be asked, the home may be who
// could not.
void RemotePuts::FindHomes(std::vector<Going>* all) {
  std::vector<std::string_view> names;
  for (Going& going : *all) {
    going.result = absl::NotFoundError("");
    names.push_back(going.draft.spec.name());
  }
  homes_->Find(names, [all](const PeerRef& peer, absl::Span<const size_t> which) {
    std::vector<Going*> these;
    for (const size_t i : which) these.push_back(&(*all)[i]);
    return ReserveAt(peer, these);
  });
}

// Whether each is settled: reserved there, or refused by its home.
std::vector<bool> RemotePuts::ReserveAt(const PeerRef& peer, absl::Span<Going* const> going) {
  std::vector<PeerNode::Reserving> items;
  for (const Going* one : going) items.push_back(one->Ask());
  std::vector<absl::StatusOr<PeerNode::Reserved>> reserved = peer->Reserve(items);
  std::vector<bool> settled;
  for (size_t i = 0; i < going.size(); ++i) {
    const absl::Status why = reserved[i].status();
    settled.push_back(!absl::IsNotFound(why) && !absl::IsUnavailable(why));
    if (reserved[i].ok()) {
      going[i]->home = peer;
      going[i]->reserved = *std::move(reserved[i]);
    } else if (!absl::IsNotFound(why)) {
      going[i]->result = why;
    }
  }
  return settled;
}

// To names that nobody has, where that is not this node.
void RemotePuts::GiveHomes(std::vector<Going>* all) {
  std::map<PeerRef, std::vector<Going*>> fresh;
  for (Going& going : *all) {
    if (going.home != nullptr || !absl::IsNotFound(going.result.status())) continue;
    store_->DropCopy(going.draft.spec.name());  // of what its home has deleted
    const PeerRef home = homes_->ForNew(going.draft.spec.name());
    if (home == nullptr) continue;
    going.if_home = false;
    fresh[home].push_back(&going);
  }
  for (const auto& [peer, these] : fresh) ReserveAt(peer, these);
}

void RemotePuts::PublishAll(std::vector<Going>* all) {
  std::map<PeerRef, std::vector<Going*>> homes;
  for (Going& going : *all) {
    if (going.home != nullptr) homes[going.home].push_back(&going);
  }
  std::vector<std::thread> others;  // each home at the same time, the last one on this thread
  for (auto it = homes.begin(); it != homes.end() && std::next(it) != homes.end(); ++it) {
    others.emplace_back([this, peer = it->first, &going = it->second] { PublishAt(*peer, going); });
  }
  if (!homes.empty()) PublishAt(*homes.rbegin()->first, homes.rbegin()->second);
  for (Going& going : *all) {
    if (going.home != nullptr) continue;
    if (!absl::IsNotFound(going.result.status())) {
      Answer(going);
    } else {
      PublishTakenHere(going.key, going.draft);
    }
  }
  for (std::thread& other : others) other.join();
}

// A home whose process is replaced meanwhile is asked again: it knows by the key what it has published.
void RemotePuts::PublishAt(PeerNode& peer, std::vector<Going*> going) {
  PENSTOCK_FAULT_POINT("node.remote.reserved");
  for (int attempt = 0; !going.empty(); ++attempt) {
    WriteAndPublish(peer, going);
    std::vector<Going*> lost;
    for (Going* one : going) {
      if (absl::IsUnavailable(one->result.status()) && !IsTransportError(one->result.status()) && attempt < kRestartAttempts && one->request_key != 0) {
        lost.push_back(one);
      } else {
        Answer(*one);
      }
    }
    going = ReserveAgain(peer, lost);
  }
}

// Those that the home takes; the others are answered.
std::vector<RemotePuts::Going*> RemotePuts::ReserveAgain(PeerNode& peer, const std::vector<Going*>& lost) {
  if (lost.empty()) return {};
  std::vector<PeerNode::Reserving> items;
  for (const Going* going : lost) items.push_back(going->Ask());
  std::vector<absl::StatusOr<PeerNode::Reserved>> reserved;
  for (int i = 0; i < kRestartAttempts; ++i) {
    if (PauseOrStop(kRestartPause)) break;
    reserved = peer.Reserve(items);
    if (!absl::IsUnavailable(reserved[0].status())) break;
  }
  std::vector<Going*> again;
  for (size_t i = 0; i < lost.size(); ++i) {
    if (i < reserved.size() && reserved[i].ok()) {
      lost[i]->reserved = *std::move(reserved[i]);
      again.push_back(lost[i]);
    } else {
      Answer(*lost[i]);
    }
  }
  return again;
}

// A result for each.
void RemotePuts::WriteAndPublish(PeerNode& peer, const std::vector<Going*>& all) {
  std::vector<Going*> going;
  std::vector<PeerNode::Writing> writings;
  for (Going* one : all) {
    if (one->reserved.published) {
      one->result = *one->reserved.published;
      continue;
    }
    going.push_back(one);
    writings.push_back({.reserved = &one->reserved, .bytes = {one->draft.data, one->draft.nbytes}, .rdma_only = one->require_rdma});
  }
  peer.Write(absl::MakeSpan(writings));
  std::vector<Going*> written;
  std::vector<const PeerNode::Reserved*> drafts, failed;
  for (size_t i = 0; i < going.size(); ++i) {
    if (writings[i].status.ok()) {
      written.push_back(going[i]);
      drafts.push_back(&going[i]->reserved);
    } else {
      going[i]->result = writings[i].status;
      failed.push_back(&going[i]->reserved);
    }
  }
  peer.Abort(failed);
  if (written.empty()) return;
  PENSTOCK_FAULT_POINT("node.remote.written");
  std::vector<absl::StatusOr<Published>> published = peer.Publish(drafts);
  for (size_t i = 0; i < written.size(); ++i) written[i]->result = std::move(published[i]);
}

void RemotePuts::Answer(Going& going) {
  if (!going.result.ok()) {
    store_->DropTaken(going.draft.record);
    return Finish(going.key, going.result);
  }
  PENSTOCK_FAULT_POINT("node.remote.published");
  absl::StatusOr<Published> copy = store_->PublishAsCopy(going.draft.record, *going.result);
  if (!copy.ok()) return Finish(going.key, going.result);  // this node has got a tensor of that name meanwhile
  copy->home = going.result->home;
  Finish(going.key, copy);
}

void RemotePuts::Finish(uint64_t key, const absl::StatusOr<Published>& result) {
  jobs_->Finish(key, {.status = result.status(), .published = result.ok() ? *result : Published{}});
}

// The same for a request that is made again after this node's process was replaced, and no other's. 0: not told apart.
uint64_t RemotePuts::RequestKey(const Session& session, uint64_t request_id) const {
  if (request_id == 0) return 0;
  const uint64_t both[] = {session.id, request_id};
  return layout::HashName(reinterpret_cast<const char*>(both), sizeof(both), store_->header()->hash_key) | 1;  // the key is this node's alone
}

void RemotePuts::Stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

bool RemotePuts::PauseOrStop(absl::Duration pause) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopping_; });
}

}  // namespace penstock::server
