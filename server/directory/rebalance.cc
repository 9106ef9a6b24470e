#include "server/directory/rebalance.h"

#include <algorithm>
#include <vector>

namespace penstock::server::directory {

void Rebalance::Tick() {
  if (!node_.config.rebalance || node_.now < again_) return;
  const auto uneven = placement_.MostUneven(node_.view, node_.config.rebalance_difference, node_.config.rebalance_bytes);
  if (!uneven || !node_.LeaseValid() || !repair_.Rests()) {
    again_ = node_.now + kSecond;
    return;
  }
  if (node_.now >= window_end_) {
    window_end_ = node_.now + kSecond;
    window_left_ = std::max<uint64_t>(1, uneven->bytes / std::max<size_t>(1, node_.view.members.size()));
  }
  if (window_left_ == 0 || transfers_.evening_count() >= AtOnce(*uneven)) return;
  if (MoveSome(*uneven)) again_ = node_.now + 5 * kSecond;
}

size_t Rebalance::AtOnce(const Uneven& uneven) const { return placement_.IsNew(uneven.emptier, node_.now) ? 1 : node_.config.rebalance_at_once; }

bool Rebalance::Fits(const Entry& entry, const Uneven& uneven) const {
  if (entry.deleted || !entry.HeldBy(uneven.fuller) || entry.HeldBy(uneven.emptier)) return false;
  if (entry.nbytes > uneven.bytes || placement_.IsFull(uneven.emptier, entry.nbytes)) return false;
  const Member* giver = node_.view.Find(uneven.fuller);
  const Member* taker = node_.view.Find(uneven.emptier);
  for (const NodeId node : entry.holders) {
    const Member* member = node_.view.Find(node);
    if (!member || !node_.view.IsSteady(node)) return false;  // there is other work with it
    // Copies stay on as many hosts, and in as many zones.
    if (node == uneven.fuller) continue;
    if (member->host == taker->host && member->host != giver->host) return false;
    if (member->zone == taker->zone && member->zone != giver->zone) return false;
  }
  return entry.holders.size() >= std::min<size_t>(entry.replicas, node_.view.CountSteady());
}

bool Rebalance::MoveSome(const Uneven& uneven) {
  size_t budget = kLooksPerTick;
  std::string found;
  while (budget > 0 && found.empty() && fruitless_ < partitions_.count()) {
    if (!partitions_.CanDecide(cursor_)) after_.clear();
    const bool at_end = !partitions_.CanDecide(cursor_) || partitions_[cursor_].table.Walk(after_, [&](const Entry& entry) {
      if (budget == 0 || !found.empty()) return false;
      --budget;
      after_ = entry.name();
      if (Fits(entry, uneven)) found = entry.name();
      return true;
    });
    if (!at_end) continue;
    after_.clear();
    cursor_ = (cursor_ + 1) % partitions_.count();
    ++fruitless_;
  }
  if (found.empty()) {
    const bool all = fruitless_ >= partitions_.count();
    if (all) fruitless_ = 0;
    return all;
  }
  fruitless_ = 0;
  const Entry* entry = partitions_[node_.PartitionFor(found)].table.Find(found);
  if (transfers_.Even(*entry, uneven.fuller, uneven.emptier)) {
    window_left_ -= std::min(window_left_, std::max<uint64_t>(1, entry->nbytes));
    placement_.Assume(uneven.emptier, static_cast<int64_t>(entry->nbytes));
    placement_.Assume(uneven.fuller, -static_cast<int64_t>(entry->nbytes));
  }
  return false;
}

}  // namespace penstock::server::directory
