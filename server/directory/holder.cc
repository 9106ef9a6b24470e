#include "server/directory/holder.h"

#include <algorithm>
#include <vector>

namespace penstock::server::directory {

Holder::Holder(NodeState& node, Partitions& partitions, Proposer& proposer)
    : node_(node), partitions_(partitions), proposer_(proposer) {
  node_.records->ForEach([this](const HeldRecord& record) {
    if (record.state != RecordState::kLive && record.state != RecordState::kQuarantined) {
      Unsettle(record.name, record.op, 0);
    }
  });
}

void Holder::Unsettle(const std::string& name, OpId op, Time next) {
  Unsettled& unsettled = unsettled_[{name, op}];
  unsettled.next = next;
  unsettled.question = 0;
  unsettled.leaving = unsettled.evicting = unsettled.damaged = false;
}

void Holder::NoteReturn(Term since) {
  std::vector<HeldRecord> mine;
  node_.records->ForEach([&](const HeldRecord& record) {
    if (record.state == RecordState::kLive && Keeps(Rule::kReturningConfirmed)) mine.push_back(record);
  });
  for (const HeldRecord& record : mine) {
    node_.records->SetState(record.name, record.op, RecordState::kUnconfirmed, record.version);
    Unsettle(record.name, record.op, node_.now);
  }
  for (const auto& [name, op] : proposer_.StopProposing()) Unsettle(name, op, node_.now);
  // News of their commit that comes only now may be old.
  for (auto& [key, unsettled] : unsettled_) {
    unsettled.question = 0;
    const auto record = node_.records->Find(key.first, key.second);
    if (record && record->state == RecordState::kPrepared && Keeps(Rule::kReturningConfirmed)) {
      node_.records->SetState(key.first, key.second, RecordState::kUnconfirmed, {});
    }
  }
  node_.records->SetSince(since);  // last: a process that dies before it begins again
}

void Holder::Leave(std::string_view name, OpId op, LeaveWhy why) {
  const auto record = node_.records->Find(name, op);
  if (!record || record->state != RecordState::kLive) return;
  node_.records->SetState(name, op, RecordState::kSuperseded, record->version);
  Unsettle(std::string(name), op, node_.now);
  Unsettled& unsettled = unsettled_[{std::string(name), op}];
  unsettled.leaving = true;
  unsettled.evicting = why == LeaveWhy::kEvicted;
  unsettled.damaged = why == LeaveWhy::kDamaged;
}

// ---- what homes say ----

void Holder::OnSupersede(NodeId from, const Supersede& message) {
  if (node_.Refuses(from, message.partition, message.term)) return;
  if (const auto record = node_.records->Find(message.name, message.op)) {
    if (record->state != RecordState::kQuarantined) {
      node_.records->SetState(message.name, message.op, RecordState::kSuperseded, message.version);
      Unsettle(message.name, message.op, node_.now + node_.config.settle_after);
    }
  }
  proposer_.LearnCommitted(message.op, message.version);
  proposer_.RecallCopy(message.name);
  node_.Send(from, RunAck{message.run, message.name, true});
}

void Holder::OnRecall(NodeId from, const Recall& message) {
  proposer_.RecallCopy(message.name);
  node_.Send(from, RunAck{message.run, message.name, false});
}

void Holder::OnProposeAnswer(NodeId from, const ProposeAnswer& message) {
  const std::string name = proposer_.NameOf(message.op);
  if (proposer_.OnProposeAnswer(from, message)) Unsettle(name, message.op, node_.now);
}

void Holder::OnCommitted(NodeId from, const Committed& message) {
  if (node_.Refuses(from, message.partition, message.term)) return;
  const auto record = node_.records->Find(message.name, message.op);
  if (!record || record->state != RecordState::kPrepared) return;
  // Only a reason to ask at once: the record may have been dropped since and fetched again by a late Pull.
  node_.records->SetState(message.name, message.op, RecordState::kUnconfirmed, message.version);
  Unsettle(message.name, message.op, node_.now);
}

void Holder::OnDrop(const Drop& message) {
  proposer_.LearnCommitted(message.op, message.version);
  node_.records->Drop(message.name, message.op);
  unsettled_.erase({message.name, message.op});
}

void Holder::OnDiscard(const Discard& message) {
  const auto record = node_.records->Find(message.name, message.op);
  if (!record || record->version != Version{}) return;
  node_.records->Drop(message.name, message.op);
  unsettled_.erase({message.name, message.op});
}

// ---- settling ----

void Holder::Tick() {
  std::map<NodeId, Resolve> questions;
  size_t budget = std::min(node_.config.work_per_tick, unsettled_.size());
  auto it = unsettled_.lower_bound(cursor_);
  for (; budget > 0 && !unsettled_.empty(); --budget) {
    if (it == unsettled_.end()) it = unsettled_.begin();
    if (node_.now >= it->second.next && !Ask(it->first, it->second, questions)) {
      it = unsettled_.erase(it);
    } else {
      ++it;
    }
  }
  cursor_ = it == unsettled_.end() ? Key() : it->first;
  for (auto& [home, resolve] : questions) {
    resolve.session = node_.config.session;
    resolve.sequence = ++last_sequence_;
    node_.Send(home, std::move(resolve));
  }
  TellOfPulls();
  LeaveWhenDraining();
}

bool Holder::Ask(const Key& key, Unsettled& unsettled, std::map<NodeId, Resolve>& questions) {
  const auto& [name, op] = key;
  const auto record = node_.records->Find(name, op);
  if (!record || record->state == RecordState::kLive || record->state == RecordState::kQuarantined) return false;
  if (!node_.InView()) return true;
  if (record->version == Version{} && !unsettled.proposer_is_done && AskProposer(key, unsettled)) return true;
  const Partition p = node_.PartitionFor(name);
  // The same question as long as nothing has happened to the record: a slow answer counts, too.
  if (unsettled.question == 0) unsettled.question = ++last_question_;
  unsettled.next = node_.now + 2 * node_.config.retry;
  questions[node_.assignment.Home(p)].items.push_back({p, node_.known_term[p], name, op, record->version,
                                                       record->prepared_in, unsettled.question, unsettled.leaving,
                                                       unsettled.evicting, unsettled.damaged, unsettled.reason});
  return true;
}

// True: its proposer is there and may still work on it.
bool Holder::AskProposer(const Key& key, Unsettled& unsettled) {
  unsettled.next = node_.now + node_.config.settle_after;
  const auto record = node_.records->Find(key.first, key.second);
  if (record->prepared_in > node_.view.term) return true;
  if (key.second.session == node_.config.session) return proposer_.IsProposing(key.second);
  const Member* proposer = node_.view.FindSession(key.second.session);
  if (!proposer) return false;
  node_.Send(proposer->id, OpQuery{key.first, key.second});
  return true;
}

void Holder::OnOpQueryAnswer(const OpQueryAnswer& message) {
  auto it = unsettled_.find({message.name, message.op});
  if (it == unsettled_.end() || message.open) return;
  it->second.proposer_is_done = true;
  it->second.next = std::min(it->second.next, node_.now);
}

void Holder::OnVerdicts(NodeId from, const Verdicts& message) {
  for (const Verdict& verdict : message.items) {
    if (verdict.term > node_.known_term[verdict.partition]) node_.known_term[verdict.partition] = verdict.term;
    if (node_.Refuses(from, verdict.partition, verdict.term)) continue;
    Apply(verdict);
  }
}

void Holder::Apply(const Verdict& verdict) {
  auto it = unsettled_.find({verdict.name, verdict.op});
  if (it == unsettled_.end()) return;
  if (it->second.question != verdict.question && Keeps(Rule::kVerdictCurrent)) return;
  if (verdict.kind == VerdictKind::kElsewhere) {
    if (verdict.term != 0) it->second.next = node_.now;
    return;
  }
  unsettled_.erase(it);
  switch (verdict.kind) {
    case VerdictKind::kLive:
      node_.records->SetState(verdict.name, verdict.op, RecordState::kLive, verdict.version);
      proposer_.LearnCommitted(verdict.op, verdict.version);
      break;
    case VerdictKind::kQuarantine:
      node_.records->SetState(verdict.name, verdict.op, RecordState::kQuarantined, verdict.version);
      proposer_.LearnLost(verdict.op);
      break;
    default:
      node_.records->Drop(verdict.name, verdict.op);
      proposer_.LearnLost(verdict.op);
  }
}

// ---- losses of history ----

void Holder::OnAnnounceAsk(NodeId from, const AnnounceAsk& message) {
  if (message.view < node_.view.term) return;
  if (message.since > node_.records->since()) NoteReturn(message.since);
  for (const Partition p : message.partitions) partitions_.PromiseToOther(p, message.view);
  size_t budget = node_.config.entries_per_message;
  bool first = true;
  for (const Partition p : message.partitions) {
    if (budget == 0) break;
    if (node_.promised[p] <= message.view) {
      budget = Announce(from, message.view, p, first ? message.after : std::string(), budget);
    }
    first = false;
  }
}

size_t Holder::Announce(NodeId to, Term view, Partition p, const std::string& after, size_t budget) {
  AnnouncePart part{.view = view, .partition = p, .after = after};
  part.records = node_.records->List(p, after, budget);
  budget -= std::min(budget, part.records.size());
  part.cut = budget == 0;
  part.last = !part.cut;
  node_.Send(to, std::move(part));
  return budget;
}

// ---- copies ----

void Holder::OnPull(NodeId from, const Pull& message) {
  const bool for_put = message.version == Version{};
  if (node_.records->Find(message.name, message.op)) {
    if (for_put) node_.Send(from, PullDone{message.name, message.op, true});
    return;
  }
  if (pulls_.contains(message.op)) return;
  const auto evens = [](Reason reason) { return UnpackReason(reason).kind == ReasonKind::kRebalance; };
  if (evens(message.reason)) {
    // Homes do not know of each other's: few at a time, so that what this node has is known before the next ones are chosen.
    const auto going = std::count_if(pulls_.begin(), pulls_.end(), [&](const auto& pull) { return evens(pull.second.reason); });
    if (static_cast<size_t>(going) >= node_.config.rebalance_at_once) {
      return node_.Send(from, PullDone{.name = message.name, .op = message.op, .ok = false, .going = false, .busy = true});
    }
  }
  pulls_[message.op] = {message.name, from, for_put, message.reason, node_.now + node_.config.pull_patience / 4};
  node_.environment->Fetch(message);
}

void Holder::OnFetched(const std::string& name, OpId op, bool ok) {
  auto it = pulls_.find(op);
  if (it == pulls_.end()) return;
  const PullUnderWay pull = it->second;
  pulls_.erase(it);
  if (ok) {
    Unsettle(name, op, node_.now + (pull.for_put ? node_.config.settle_after : 0));
    unsettled_[{name, op}].proposer_is_done = !pull.for_put;
    unsettled_[{name, op}].reason = pull.reason;
  }
  if (pull.for_put || !ok) node_.Send(pull.asker, PullDone{name, op, ok});
}

// What is made without haste takes its time: whoever asked for it must not take it for failed.
void Holder::TellOfPulls() {
  for (auto& [op, pull] : pulls_) {
    if (pull.for_put || node_.now < pull.tell_at) continue;
    pull.tell_at = node_.now + node_.config.pull_patience / 4;
    node_.Send(pull.asker, PullDone{.name = pull.name, .op = op, .ok = false, .going = true, .busy = false});
  }
}

void Holder::LeaveWhenDraining() {
  if (!node_.InView() || node_.view.IsSteady(node_.config.self)) return;
  const Partition at_once = std::max<Partition>(1, node_.config.partition_count / 64);
  for (Partition i = 0; i < at_once; ++i) {
    drain_cursor_ = (drain_cursor_ + 1) % node_.config.partition_count;
    std::string after;
    while (true) {
      const auto records = node_.records->List(drain_cursor_, after, node_.config.entries_per_message);
      if (records.empty()) break;
      after = records.back().name;
      for (const HeldRecord& record : records) {
        if (record.state == RecordState::kLive) Leave(record.name, record.op, LeaveWhy::kNotNeeded);
      }
    }
  }
}

}  // namespace penstock::server::directory
