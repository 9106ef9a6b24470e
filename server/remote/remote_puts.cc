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
    if (!store_->HasOwnNameOf(item.record)) draft = store_->TakeDraft(*item.session, item.record, item.record_seq);
    if (!draft.ok()) {
      here.push_back(&item);  // the store knows what was published before, or says what is wrong
      continue;
    }
    const uint64_t request_key = RequestKey(*item.session, draft->request_id);
    going.push_back({.key = item.key, .draft = *std::move(draft), .request_key = request_key, .require_rdma = require_rdma_ || item.session->peer.require_rdma});
  }
  PublishHere(here);
  if (!going.empty()) FindHomes(&going);
}

void RemotePuts::PublishHere(const std::vector<const Item*>& items) {
  std::vector<std::string> names;
  for (const Item* item : items) names.push_back(store_->DraftName(item->record));
  const std::vector<absl::StatusOr<Published>> results = recall_->ChangeMany(
      names, [&](size_t i, LeaseRule leases) { return store_->Publish(*items[i]->session, items[i]->record, items[i]->record_seq, leases); });
  for (size_t i = 0; i < items.size(); ++i) Finish(items[i]->key, results[i]);
}

// A peer that is not the home of a name says NOT_FOUND and has changed nothing.
void RemotePuts::FindHomes(std::vector<Going>* all) {
  std::vector<Going*> missing;
  for (Going& going : *all) {
    going.result = absl::NotFoundError("");
    missing.push_back(&going);
  }
  std::map<PeerNode*, std::vector<Going*>> homes;
  for (const auto& peer : *peers_) {
    if (missing.empty()) break;
    std::vector<PeerNode::Reserving> items;
    for (const Going* going : missing) items.push_back(going->Ask());
    std::vector<absl::StatusOr<PeerNode::Reserved>> reserved = peer->Reserve(items);
    std::vector<Going*> still;
    for (size_t i = 0; i < reserved.size(); ++i) {
      Going* going = missing[i];
      if (reserved[i].ok()) {
        going->reserved = *std::move(reserved[i]);
        homes[peer.get()].push_back(going);
        continue;
      }
      const absl::Status& why = reserved[i].status();
      if (!absl::IsNotFound(why)) going->result = why;
      if (absl::IsNotFound(why) || absl::IsUnavailable(why)) {  // another one may have it
        still.push_back(going);
      } else {
        Answer(*going);
      }
    }
    missing = std::move(still);
  }
  if (new_names_at_peers_) {
    std::vector<Going*> fresh;
    for (Going* going : missing) {
      if (absl::IsNotFound(going->result.status())) fresh.push_back(going);
    }
    std::erase_if(missing, [](const Going* going) { return absl::IsNotFound(going->result.status()); });
    for (Going* going : MakeHome(*(*peers_)[0], fresh)) homes[(*peers_)[0].get()].push_back(going);
  }
  std::vector<std::thread> others;  // each home at the same time, the last one on this thread
  for (auto it = homes.begin(); it != homes.end() && std::next(it) != homes.end(); ++it) {
    others.emplace_back([this, peer = it->first, &going = it->second] { PublishAt(*peer, going); });
  }
  if (!homes.empty()) PublishAt(*homes.rbegin()->first, homes.rbegin()->second);
  for (Going* going : missing) {
    if (!absl::IsNotFound(going->result.status())) {
      Answer(*going);
      continue;
    }
    store_->DropCopy(going->draft.spec.name());  // of what its home has deleted
    Finish(going->key, recall_->Change(going->draft.spec.name(), [&](LeaseRule leases) { return store_->PublishTaken(going->draft.record, leases); }));
  }
  for (std::thread& other : others) other.join();
}

// Names that nobody has: the peer is their home from now on. Those that it takes; the others are answered.
std::vector<RemotePuts::Going*> RemotePuts::MakeHome(PeerNode& peer, const std::vector<Going*>& fresh) {
  if (fresh.empty()) return {};
  std::vector<PeerNode::Reserving> items;
  for (Going* going : fresh) {
    store_->DropCopy(going->draft.spec.name());  // of what its home has deleted
    going->if_home = false;
    items.push_back(going->Ask());
  }
  std::vector<absl::StatusOr<PeerNode::Reserved>> reserved = peer.Reserve(items);
  std::vector<Going*> taken;
  for (size_t i = 0; i < fresh.size(); ++i) {
    if (reserved[i].ok()) {
      fresh[i]->reserved = *std::move(reserved[i]);
      taken.push_back(fresh[i]);
    } else {
      fresh[i]->result = reserved[i].status();
      Answer(*fresh[i]);
    }
  }
  return taken;
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
