#include "server/cluster/cluster_events.h"

#include <atomic>
#include <utility>
#include <vector>

#include "transport/monotonic.h"

namespace penstock::server {

namespace {
constexpr absl::Duration kLookAgain = absl::Milliseconds(100);  // who the members are
constexpr absl::Duration kPause = absl::Milliseconds(200);      // after a member did not answer
constexpr uint64_t kPollNs = 1'000'000'000;
}  // namespace

bool ClusterEvents::Watched() {
  std::lock_guard lock(mutex_);
  if (stopping_) return true;
  const absl::Time now = MonotonicNow();
  const bool idle = wanted_until_ < now;
  wanted_until_ = now + kInterest;
  if (idle) {
    // Cursors of before may have missed something.
    if (followed_before_) store_->LogEvent(v1::Event::RESYNC, "this node has not listened to the others for a while");
    followed_before_ = true;
    if (!keeping_.joinable()) keeping_ = std::thread([this] { Run(); });
    changed_.notify_all();
  }
  return !idle && AllBegun();
}

bool ClusterEvents::AllBegun() const {
  size_t members = 0;
  for (const PeerRef& peer : peers_->Now()) {
    if (peer->absent()) continue;
    ++members;
    const auto it = following_.find(peer);
    if (it == following_.end() || !it->second->begun.load()) return false;
  }
  return true;
}

void ClusterEvents::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    std::vector<std::shared_ptr<Following>> ended;
    Update(&ended);
    const bool stopping = stopping_;
    lock.unlock();
    for (const auto& each : ended) each->thread.join();
    if (stopping) return;
    lock.lock();
    if (stopping_) continue;
    if (wanted_until_ < MonotonicNow() && following_.empty()) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, absl::ToChronoNanoseconds(kLookAgain));
    }
  }
}

// Follows the members, if anybody watches; `ended`: those that are not followed any more.
void ClusterEvents::Update(std::vector<std::shared_ptr<Following>>* ended) {
  std::map<PeerRef, std::shared_ptr<Following>> next;
  if (!stopping_ && wanted_until_ >= MonotonicNow()) {
    for (const PeerRef& peer : peers_->Now()) {
      if (peer->absent()) continue;
      const auto it = following_.find(peer);
      std::shared_ptr<Following>& slot = next[peer];
      if (it != following_.end()) {
        slot = it->second;
        continue;
      }
      slot = std::make_shared<Following>();
      slot->peer = peer;
      slot->thread = std::thread([this, raw = slot.get()] { Follow(raw); });
    }
    for (const auto& [peer, following] : following_) {
      if (!next.contains(peer)) store_->LogEvent(v1::Event::RESYNC, "a node has left, perhaps with events that nobody has heard");
    }
  }
  following_.swap(next);
  for (auto& [peer, following] : next) {
    if (following_.contains(peer)) continue;
    following->stop.store(true);
    ended->push_back(following);
  }
}

void ClusterEvents::Follow(Following* following) {
  v1::WatchRequest request;
  request.set_of_homes(true);
  request.set_tensors_only(true);
  while (!following->stop.load()) {
    request.set_timeout_ns(following->begun.load() ? kPollNs : 1);  // at first only the cursor
    v1::WatchResponse response;
    if (!following->peer->Ask(&v1::Store::Stub::Watch, request, &response).ok()) {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, absl::ToChronoNanoseconds(kPause));
      continue;
    }
    request.set_after_sequence(response.next_sequence());
    request.set_node_generation(response.node_generation());
    for (const v1::Event& event : response.events()) {
      if (event.kind() == v1::Event::RESYNC) {
        store_->LogEvent(v1::Event::RESYNC, "a node's events were lost");
      } else {
        store_->LogNameEvent(event.kind(), event.time_ns(), event.info(), /*elsewhere=*/true);
      }
    }
    if (!following->begun.exchange(true)) store_->NoteNews({});
  }
}

void ClusterEvents::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (keeping_.joinable()) keeping_.join();
}

}  // namespace penstock::server
