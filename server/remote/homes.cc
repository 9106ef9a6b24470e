#include "server/remote/homes.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <thread>
#include <utility>

#include "proto/names.h"

namespace penstock::server {

namespace {

// FNV-1a with the finalizer of MurmurHash3; the same in every process.
uint64_t HashOf(std::string_view text, uint64_t seed = 0xcbf29ce484222325) {
  uint64_t hash = seed;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
  return hash ^ (hash >> 33);
}

}  // namespace

std::vector<PeerRef> Homes::InOrder(std::string_view name) const {
  std::vector<PeerRef> order = peers_->Now();
  std::lock_guard lock(mutex_);
  if (const auto it = found_.find(HashOf(name)); it != found_.end()) {
    std::stable_partition(order.begin(), order.end(), [&](const PeerRef& peer) { return peer.get() == it->second; });
  }
  return order;
}

void Homes::Found(std::string_view name, const PeerRef& peer) {
  std::lock_guard lock(mutex_);
  if (found_.size() >= kRemembered) found_.clear();
  found_[HashOf(name)] = peer.get();
}

void Homes::Find(absl::Span<const std::string_view> names, const Ask& ask) {
  std::vector<std::vector<PeerRef>> orders;
  std::vector<size_t> open;
  for (size_t i = 0; i < names.size(); ++i) {
    orders.push_back(InOrder(names[i]));
    open.push_back(i);
  }
  for (size_t round = 0; !open.empty(); ++round) {
    std::map<PeerRef, std::vector<size_t>> asked;
    for (const size_t i : open) {
      if (round < orders[i].size()) asked[orders[i][round]].push_back(i);
    }
    if (asked.empty()) return;
    std::map<PeerRef, std::vector<bool>> settled;
    for (const auto& [peer, which] : asked) settled[peer];  // all places are there before others write to them
    const auto ask_one = [&](const PeerRef& peer) { settled.find(peer)->second = ask(peer, asked.find(peer)->second); };
    std::vector<std::thread> others;  // the last one on this thread
    for (auto it = asked.begin(); std::next(it) != asked.end(); ++it) others.emplace_back(ask_one, std::cref(it->first));
    ask_one(asked.rbegin()->first);
    for (std::thread& other : others) other.join();
    open.clear();
    for (const auto& [peer, which] : asked) {
      for (size_t k = 0; k < which.size(); ++k) {
        if (settled[peer][k]) {
          Found(names[which[k]], peer);
        } else {
          open.push_back(which[k]);
        }
      }
    }
  }
}

// Rendezvous hashing (Thaler and Ravishankar, 1998).
PeerRef Homes::ForNew(std::string_view name) const {
  const bool one_home = name.starts_with(kOneHomeFolder);
  if (!new_names_at_peers_ && !one_home) return nullptr;
  PeerRef best;
  uint64_t most = new_names_at_peers_ ? 0 : HashOf(own_uuid_, HashOf(name));
  bool chosen = !new_names_at_peers_;
  for (const PeerRef& peer : peers_->Now()) {
    const std::string key = one_home ? peer->uuid() : peer->address();
    if (key.empty()) continue;  // it has never answered
    const uint64_t weight = HashOf(key, HashOf(name));
    if (chosen && weight <= most) continue;
    best = peer;
    most = weight;
    chosen = true;
  }
  return best;
}

}  // namespace penstock::server
