#include "server/directory/repair.h"

#include <algorithm>
#include <vector>

namespace penstock::server::directory {
namespace {

constexpr size_t kLossesWork = 3;  // to take a lost holder out takes so many looks

}  // namespace

void Repair::OnView() {
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (!partitions_[p].active) continue;
    partitions_[p].scan_needed = true;
    partitions_[p].scanned = false;
    partitions_[p].scan_after.clear();
  }
  scan_again_ = node_.now;
  steady_count_ = node_.view.CountSteady();
  for (auto& names : waiting_) names.clear();
  absl::erase_if(pulls_, [this](const auto& pull) { return !node_.view.Has(pull.second.target); });
}

void Repair::Tick() {
  FinishPulls();
  if (node_.now >= scan_again_) ScanSome();
  StartPulls();
  for (Partition p = 0; p < partitions_.count(); ++p) CollectTombstones(p);
}

bool Repair::Rests() const {
  if (!pulls_.empty() || !AllScanned()) return false;
  if (std::any_of(waiting_.begin(), waiting_.end(), [](const auto& names) { return !names.empty(); })) return false;
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (partitions_[p].active && partitions_[p].under_replicated > 0) return false;
  }
  return true;
}

bool Repair::AllScanned() const {
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (partitions_[p].active && !partitions_[p].scanned) return false;
  }
  return true;
}

// ---- what lacks copies ----

void Repair::ScanSome() {
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
  std::vector<std::string> losing;
  const Entry* last = nullptr;
  const bool at_end = state.table.Walk(state.scan_after, [&](const Entry& entry) {
    if (budget == 0) return false;
    --budget;
    last = &entry;
    const Lack lack = LackOf(entry);
    if (lack.has_lost_holders) {
      losing.emplace_back(entry.name());
      budget -= std::min(budget, kLossesWork);
    }
    state.lost_now += lack.lost;
    if (!lack.any) return true;
    ++state.under_replicated_now;
    auto& names = waiting_[lack.degree];
    if (names.size() < kMostWaiting && !pulls_.contains(entry.name())) names.emplace(entry.name());
    return true;
  });
  state.scan_after = at_end || last == nullptr ? std::string() : std::string(last->name());
  if (at_end) {
    state.lost = state.lost_now;
    state.under_replicated = state.under_replicated_now;
    state.scan_needed = state.under_replicated > 0;
    state.scanned = true;
  }
  for (const std::string& name : losing) operations_.LoseHolders(p, name);  // may change the table
  return budget;
}

Repair::Lack Repair::LackOf(const Entry& entry) const {
  Lack lack;
  if (entry.deleted) return lack;
  size_t present = 0, steady = 0;
  for (const NodeId node : entry.holders) {
    const Member* member = node_.view.Find(node);
    present += member != nullptr;
    steady += member != nullptr && (!member->draining || node_.view.IsSteady(node));
  }
  const size_t wanted = std::min<size_t>(entry.replicas, steady_count_);
  lack.has_lost_holders = present != entry.holders.size();
  lack.lost = present == 0;
  lack.any = present > 0 && steady < wanted;
  lack.degree = present < wanted ? std::min<size_t>(present - lack.any, kDegrees - 2) : kDegrees - 1;
  return lack;
}

// ---- copies ----

void Repair::FinishPulls() {
  absl::erase_if(pulls_, [this](const auto& item) {
    const PullUnderWay& pull = item.second;
    const Partition p = node_.PartitionFor(item.first);
    const Entry* entry = partitions_[p].table.Find(item.first);
    if (!partitions_[p].active || !entry || entry->op != pull.op || entry->HeldBy(pull.target)) return true;
    if (node_.now < pull.until) return false;
    placement_.Suspect(pull.target, node_.now);
    return true;
  });
}

void Repair::StartPulls() {
  for (size_t degree = 0; degree < kDegrees; ++degree) {
    auto& names = waiting_[degree];
    if (degree > 0 && !names.empty() && !AllScanned()) return;  // there may be worse ones
    while (!names.empty()) {
      if (pulls_.size() >= node_.config.pulls_at_once) return;
      const std::string name = *names.begin();
      names.erase(names.begin());
      StartPull(name);
    }
  }
}

void Repair::StartPull(const std::string& name) {
  const Partition p = node_.PartitionFor(name);
  const Entry* entry = partitions_.CanDecide(p) ? partitions_[p].table.Find(name) : nullptr;
  if (!entry || pulls_.contains(name)) return;
  const Lack lack = LackOf(*entry);
  if (!lack.any) return;
  std::vector<NodeId> from;
  for (const NodeId node : entry->holders) {
    if (node_.view.Has(node)) from.push_back(node);
  }
  const auto choices = placement_.Choose(node_.view, from, entry->nbytes, 1, node_.now);
  if (choices.empty()) return;
  const NodeId target = choices.front().node;
  pulls_[name] = {target, entry->op, node_.now + node_.config.pull_patience};
  const PutInfo info{entry->nbytes, entry->replicas, entry->cache, std::string(entry->info())};
  const ReasonKind kind = lack.degree == kDegrees - 1 ? ReasonKind::kDrain : ReasonKind::kRepair;
  node_.Send(target, Pull{name, entry->op, entry->version, node_.view.term, info, from, ReasonFor(kind, PackReason(choices.front().reason))});
}

void Repair::OnPullDone(NodeId from, const PullDone& message) {
  auto it = pulls_.find(message.name);
  if (it == pulls_.end() || it->second.target != from || it->second.op != message.op) return;
  if (message.going) {
    it->second.until = node_.now + node_.config.pull_patience;
  } else if (!message.ok) {
    pulls_.erase(it);
  }
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
