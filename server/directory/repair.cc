#include "server/directory/repair.h"

#include <algorithm>
#include <vector>

namespace penstock::server::directory {

void Repair::OnView() {
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (!partitions_[p].active) continue;
    partitions_[p].scan_needed = true;
    partitions_[p].scan_after.clear();
  }
  scan_again_ = node_.now;
  absl::erase_if(pulls_, [this](const auto& pull) { return !node_.view.Has(pull.second.target); });
}

void Repair::Tick() {
  if (node_.now >= scan_again_) ScanSome();
  for (Partition p = 0; p < partitions_.count(); ++p) CollectTombstones(p);
}

void Repair::ScanSome() {
  // Names that went meanwhile must not keep their places.
  const Time past = node_.now - node_.config.pull_patience;
  absl::erase_if(pulls_, [past](const auto& pull) { return pull.second.until <= past; });
  size_t budget = node_.config.work_per_tick;
  for (Partition i = 0; i < partitions_.count() && budget > 0; ++i) {
    if (partitions_[cursor_].scan_needed && partitions_.CanDecide(cursor_)) {
      budget = Scan(cursor_, budget);
      if (budget == 0) return;  // goes on here
    }
    cursor_ = (cursor_ + 1) % partitions_.count();
  }
  scan_again_ = node_.now + 2 * node_.config.retry;
}

size_t Repair::Scan(Partition p, size_t budget) {
  PartitionState& state = partitions_[p];
  if (state.scan_after.empty()) state.lost_now = state.under_replicated_now = 0;
  const Entry* entry = state.table.Next(state.scan_after);
  while (entry && budget > 0) {
    --budget;
    state.scan_after = std::string(entry->name());
    Look(p, *entry);  // may change the table
    entry = state.table.Next(state.scan_after);
  }
  if (entry) return budget;
  state.lost = state.lost_now;
  state.under_replicated = state.under_replicated_now;
  state.scan_after.clear();
  state.scan_needed = state.under_replicated > 0;
  return budget;
}

void Repair::Look(Partition p, const Entry& entry) {
  if (entry.deleted) return;
  PartitionState& state = partitions_[p];
  std::vector<NodeId> present;
  size_t steady = 0;
  for (const NodeId node : entry.holders) {
    if (node_.view.Has(node)) present.push_back(node);
    steady += node_.view.IsSteady(node);
  }
  const bool has_lost_holders = present.size() != entry.holders.size();
  const size_t wanted = std::min<size_t>(entry.replicas, node_.view.CountSteady());
  if (present.empty()) {
    ++state.lost_now;
  } else if (steady < wanted) {
    ++state.under_replicated_now;
    StartPull(entry, present, wanted - steady);
  } else {
    pulls_.erase(std::string(entry.name()));
  }
  if (has_lost_holders) operations_.LoseHolders(p, std::string(entry.name()));
}

void Repair::StartPull(const Entry& entry, const std::vector<NodeId>& from, size_t missing) {
  const std::string name(entry.name());
  auto it = pulls_.find(name);
  if (it != pulls_.end()) {
    if (node_.now < it->second.until) return;
    placement_.Suspect(it->second.target, node_.now);
    pulls_.erase(it);
  }
  // Names with a single copy left come before all others.
  if (pulls_.size() >= node_.config.pulls_at_once * (from.size() == 1 ? 2 : 1)) return;
  const auto choices = placement_.Choose(node_.view, from, entry.nbytes, 1, node_.now);
  if (choices.empty()) return;
  pulls_[name] = {choices.front().node, node_.now + node_.config.pull_patience};
  const PutInfo info{entry.nbytes, entry.replicas, entry.cache, std::string(entry.info())};
  node_.Send(choices.front().node, Pull{name, entry.op, entry.version, node_.view.term, info, from});
}

void Repair::OnPullDone(NodeId from, const PullDone& message) {
  auto it = pulls_.find(message.name);
  if (message.ok || it == pulls_.end() || it->second.target != from) return;
  pulls_.erase(it);
}

// ---- tombstones ----

void Repair::CollectTombstones(Partition p) {
  PartitionState& state = partitions_[p];
  if (!state.active || !partitions_.CanDecide(p)) return;
  if (!Keeps(Rule::kTombstoneKept)) {
    state.collect_upto = {state.term, state.last_change};
  } else if (node_.now < state.collect_at || !node_.view.absent.empty()) {
    return;
  }
  if (state.table.tombstones() == 0 || operations_.Replicating(p, state.collect_upto)) {
    if (state.table.tombstones() == 0) FinishCollecting(p);
    return;
  }
  state.collect_at = node_.now + node_.config.retry;
  if (state.backup == 0) return FinishCollecting(p);
  node_.Send(state.backup, Collect{p, state.term, state.collect_upto});
}

void Repair::OnCollectAck(NodeId from, const CollectAck& message) {
  PartitionState& state = partitions_[message.partition];
  if (!partitions_.CanDecide(message.partition) || state.term != message.term || state.backup != from) return;
  if (state.collect_upto == message.upto) FinishCollecting(message.partition);
}

void Repair::FinishCollecting(Partition p) {
  PartitionState& state = partitions_[p];
  if (state.table.AnyTombstone(state.collect_upto)) partitions_.CollectUpTo(p, state.collect_upto);
  state.collect_upto = {state.term, state.last_change};
  state.collect_at = node_.now + node_.config.tombstone_age;
}

}  // namespace penstock::server::directory
