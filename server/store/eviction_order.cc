#include "server/store/eviction_order.h"

#include <algorithm>

namespace penstock::server {

using layout::RecordRef;

namespace {
constexpr uint64_t kSmallPart = 10;  // the small queue's part of the bytes is one in so many
constexpr uint8_t kUsesToMain = 2;
constexpr uint8_t kMostUses = 3;
}  // namespace

void EvictionOrder::Add(const Item& item) {
  Queues& queues = queues_[item.soft_pin];
  const bool came_back = ghost_counts_.contains(item.name_hash);
  List& list = came_back ? queues.main : queues.small;
  list.push_back({.item = item, .in_main = came_back});
  (came_back ? queues.main_bytes : queues.small_bytes) += item.nbytes;
  places_[item.ref] = std::prev(list.end());
}

void EvictionOrder::Remove(RecordRef ref) {
  const auto place = places_.find(ref);
  if (place == places_.end()) return;
  const List::iterator entry = place->second;
  Queues& queues = QueuesOf(*entry);
  (entry->in_main ? queues.main_bytes : queues.small_bytes) -= entry->item.nbytes;
  (entry->in_main ? queues.main : queues.small).erase(entry);
  places_.erase(place);
}

void EvictionOrder::Evict(RecordRef ref) {
  const auto place = places_.find(ref);
  if (place == places_.end()) return;
  Remember(place->second->item.name_hash);
  Remove(ref);
}

void EvictionOrder::Touch(RecordRef ref) {
  const auto place = places_.find(ref);
  if (place != places_.end()) place->second->uses = static_cast<uint8_t>(std::min<int>(place->second->uses + 1, kMostUses));
}

RecordRef EvictionOrder::Next(Walk* walk) {
  for (const size_t which : {0, 1}) {
    Queues& queues = queues_[which];
    if (walk->left[which] == 0 || queues.count() == 0) continue;
    --walk->left[which];
    return Coldest(queues);
  }
  return 0;
}

RecordRef EvictionOrder::Coldest(Queues& queues) {
  while (true) {
    const bool from_small = !queues.small.empty() && (queues.main.empty() || queues.small_bytes * kSmallPart >= queues.bytes());
    const List::iterator entry = from_small ? queues.small.begin() : queues.main.begin();
    if (entry->uses < (from_small ? kUsesToMain : 1)) return entry->item.ref;
    if (from_small) {
      entry->uses = 0;
    } else {
      --entry->uses;
    }
    ToMain(entry);
  }
}

void EvictionOrder::Pass(RecordRef ref) {
  if (const auto place = places_.find(ref); place != places_.end()) ToMain(place->second);
}

// To its newest end.
void EvictionOrder::ToMain(List::iterator entry) {
  Queues& queues = QueuesOf(*entry);
  if (!entry->in_main) {
    queues.small_bytes -= entry->item.nbytes;
    queues.main_bytes += entry->item.nbytes;
  }
  queues.main.splice(queues.main.end(), entry->in_main ? queues.main : queues.small, entry);
  entry->in_main = true;
}

void EvictionOrder::Remember(uint64_t name_hash) {
  ghosts_.push_back(name_hash);
  ++ghost_counts_[name_hash];
  while (ghosts_.size() > std::min(kMaxGhosts, std::max<size_t>(count(), 16))) {
    const auto oldest = ghost_counts_.find(ghosts_.front());
    if (oldest != ghost_counts_.end() && --oldest->second == 0) ghost_counts_.erase(oldest);
    ghosts_.pop_front();
  }
}

}  // namespace penstock::server
