#include "server/directory/transfers.h"

#include <algorithm>

namespace penstock::server::directory {
namespace {

constexpr size_t kMostFinished = 256;

}  // namespace

MoveOutcome Transfers::Refusal(const Move& message, const Entry* entry) const {
  if (!entry || entry->deleted) return MoveOutcome::kAbsent;
  const bool any = std::any_of(entry->holders.begin(), entry->holders.end(), [this](NodeId node) { return node_.view.Has(node); });
  if (!any) return MoveOutcome::kLost;
  const Member* to = node_.view.Find(message.to);
  if (!to) return MoveOutcome::kNoNode;
  if (to->draining) return MoveOutcome::kDraining;
  if (!entry->HeldBy(message.to) && placement_.IsFull(message.to, entry->nbytes)) return MoveOutcome::kFull;
  return MoveOutcome::kDone;
}

void Transfers::OnMove(NodeId from, const Move& message) {
  const Partition p = node_.PartitionFor(message.name);
  if (!partitions_.CanDecide(p)) return node_.Send(from, MoveAnswer{message.request, MoveOutcome::kElsewhere, 0, 0});
  const Entry* entry = partitions_[p].table.Find(message.name);
  const MoveOutcome refused = Refusal(message, entry);
  if (refused != MoveOutcome::kDone) return node_.Send(from, MoveAnswer{message.request, refused, 0, 0});
  if (auto it = transfers_.find(message.name); it != transfers_.end()) {
    Transfer& going = it->second;
    if (going.to != message.to || going.copy != message.copy || going.evens) return;  // it asks again
    std::erase_if(going.askers, [from](const Asker& asker) { return asker.node == from; });
    going.askers.push_back({from, message.request});
    return;
  }
  for (const Finished& finished : finished_) {
    // Whose answer was lost asks again; another request for the same is one of its own.
    if (finished.name != message.name || finished.to != message.to || finished.copy != message.copy || finished.op != entry->op) continue;
    const bool asked = std::any_of(finished.askers.begin(), finished.askers.end(),
                                   [&](const Asker& asker) { return asker.node == from && asker.request == message.request; });
    if (!asked) continue;
    MoveAnswer again = finished.answer;
    again.request = message.request;
    return node_.Send(from, again);
  }
  Transfer transfer{.partition = p, .op = entry->op, .to = message.to, .copy = message.copy};
  transfer.had_it = entry->HeldBy(message.to);
  transfer.askers.push_back({from, message.request});
  Begin(message.name, *entry, std::move(transfer));
}

bool Transfers::Even(const Entry& entry, NodeId fuller, NodeId emptier) {
  const std::string name(entry.name());
  if (transfers_.contains(name)) return false;
  Begin(name, entry, {.partition = node_.PartitionFor(name), .op = entry.op, .to = emptier, .leaver = fuller, .evens = true});
  return true;
}

size_t Transfers::evening_count() const {
  return std::count_if(transfers_.begin(), transfers_.end(), [](const auto& item) { return item.second.evens; });
}

void Transfers::Begin(const std::string& name, const Entry& entry, Transfer transfer) {
  transfer.until = node_.now + node_.config.pull_patience;
  Transfer& begun = transfers_[name] = std::move(transfer);
  if (!entry.HeldBy(begun.to)) SendPull(name, begun, entry);
}

void Transfers::SendPull(const std::string& name, Transfer& transfer, const Entry& entry) {
  transfer.next_send = node_.now + 10 * node_.config.retry;
  std::vector<NodeId> from, others;
  for (const NodeId node : entry.holders) {
    if (!node_.view.Has(node)) continue;
    from.push_back(node);
    if (node != transfer.leaver) others.push_back(node);
  }
  const ReasonKind kind = transfer.evens ? ReasonKind::kRebalance : transfer.copy ? ReasonKind::kCopy : ReasonKind::kMove;
  const Reason reason = placement_.Describe(node_.view, transfer.to, transfer.evens ? others : from, entry.nbytes, kind, node_.now);
  const PutInfo info{entry.nbytes, entry.replicas, entry.cache, std::string(entry.info())};
  node_.Send(transfer.to, Pull{name, entry.op, entry.version, node_.view.term, info, from, reason});
}

void Transfers::OnPullDone(NodeId from, const PullDone& message) {
  auto it = transfers_.find(message.name);
  if (it == transfers_.end() || it->second.to != from || it->second.op != message.op) return;
  if (message.going) {
    it->second.until = node_.now + node_.config.pull_patience;
  } else if (!message.ok) {
    it->second.failed = true;
  }
}

void Transfers::Tick() {
  for (auto it = transfers_.begin(); it != transfers_.end();) {
    MoveAnswer answer;
    if (!Advance(it->first, it->second, &answer)) {
      ++it;
      continue;
    }
    Finish(it->first, it->second, answer);
    it = transfers_.erase(it);
  }
}

bool Transfers::Advance(const std::string& name, Transfer& transfer, MoveAnswer* answer) {
  if (!partitions_[transfer.partition].active) return true;  // kElsewhere
  if (!partitions_.CanDecide(transfer.partition)) return false;
  const Entry* entry = partitions_[transfer.partition].table.Find(name);
  answer->outcome = Refusal({.request = 0, .name = name, .to = transfer.to, .copy = transfer.copy}, entry);
  const bool room = answer->outcome != MoveOutcome::kFull;  // it may have filled up by this very copy
  if (answer->outcome != MoveOutcome::kDone && room) return true;
  if (entry->op != transfer.op) {  // overwritten
    if (transfer.evens) return true;
    transfer.op = entry->op;
    transfer.had_it = entry->HeldBy(transfer.to);
    transfer.failed = false;
    transfer.next_send = node_.now;
  }
  if (entry->HeldBy(transfer.to)) return AdvanceLeaving(name, transfer, *entry, answer);
  if (transfer.failed || node_.now >= transfer.until) {
    if (!transfer.evens && room) placement_.Suspect(transfer.to, node_.now);
    if (room) answer->outcome = MoveOutcome::kFailed;
    return true;
  }
  if (node_.now >= transfer.next_send) SendPull(name, transfer, *entry);
  return false;
}

bool Transfers::AdvanceLeaving(const std::string& name, Transfer& transfer, const Entry& entry, MoveAnswer* answer) {
  answer->outcome = MoveOutcome::kDone;
  answer->bytes = transfer.had_it ? 0 : entry.nbytes;
  if (transfer.copy) return true;
  if (transfer.leaver == 0 || (entry.HeldBy(transfer.leaver) && !node_.view.Has(transfer.leaver))) {
    transfer.leaver = ChooseLeaver(transfer, entry);
    transfer.until = std::max(transfer.until, node_.now + node_.config.pull_patience);
    transfer.next_send = node_.now;
  }
  if (transfer.leaver == 0) return true;  // all are wanted
  answer->from = transfer.leaver;
  if (!entry.HeldBy(transfer.leaver)) return true;
  if (node_.now >= transfer.until) {
    answer->from = 0;
    answer->outcome = MoveOutcome::kStays;
    return true;
  }
  if (node_.now < transfer.next_send) return false;
  transfer.next_send = node_.now + 10 * node_.config.retry;
  node_.Send(transfer.leaver, LetGo{name, entry.op});
  return false;
}

// One that drains, or the fullest.
NodeId Transfers::ChooseLeaver(const Transfer& transfer, const Entry& entry) const {
  NodeId best = 0;
  const auto weight = [this](NodeId node) { return std::pair(!node_.view.IsSteady(node), placement_.Fill(node)); };
  for (const NodeId node : entry.holders) {
    if (node == transfer.to || !node_.view.Has(node) || !operations_.MayLeave(entry, node)) continue;
    if (best == 0 || weight(node) > weight(best)) best = node;
  }
  return best;
}

void Transfers::Finish(const std::string& name, const Transfer& transfer, const MoveAnswer& answer) {
  for (const Asker& asker : transfer.askers) {
    MoveAnswer to_asker = answer;
    to_asker.request = asker.request;
    node_.Send(asker.node, to_asker);
  }
  if (answer.outcome != MoveOutcome::kDone || transfer.evens) return;
  std::erase_if(finished_, [&](const Finished& finished) { return finished.name == name; });
  finished_.push_back({name, transfer.to, transfer.copy, transfer.op, transfer.askers, answer});
  if (finished_.size() > kMostFinished) finished_.pop_front();
}

}  // namespace penstock::server::directory
