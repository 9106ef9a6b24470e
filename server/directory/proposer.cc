#include "server/directory/proposer.h"

#include <algorithm>

namespace penstock::server::directory {

void Proposer::Put(OpId op, PutRequest request) {
  Operation& operation = operations_[op.count];
  operation.propose.op = op;
  operation.propose.name = std::move(request.name);
  operation.propose.conditions = request.conditions;
  operation.propose.info = std::move(request.info);
  operation.propose.holders = {node_.config.self};
  operation.propose.reasons = {PackReason({.kind = ReasonKind::kPut})};
  operation.phase = Phase::kCopying;
  operation.copy_until = node_.now + node_.config.pull_patience;
  ContinueCopying(operation);
}

void Proposer::Delete(OpId op, std::string name, Conditions conditions) {
  Operation& operation = operations_[op.count];
  operation.propose.op = op;
  operation.propose.name = std::move(name);
  operation.propose.conditions = conditions;
  operation.propose.remove = true;
  SendPropose(operation);
}

// ---- copies before the put ----

void Proposer::ContinueCopying(Operation& operation) {
  auto& copying = operation.copying;
  copying.erase(std::remove_if(copying.begin(), copying.end(), [&](NodeId n) { return !node_.view.Has(n); }),
                copying.end());
  const Propose& propose = operation.propose;
  const size_t wanted = std::min<size_t>(propose.info.replicas, std::max<size_t>(1, node_.view.CountSteady()));
  if (node_.now >= operation.copy_until) copying.clear();
  if (propose.holders.size() < wanted && node_.now < operation.copy_until) {
    const size_t missing = wanted - std::min(wanted, propose.holders.size() + copying.size());
    std::vector<NodeId> exclude = operation.tried;
    exclude.push_back(node_.config.self);
    for (const Choice& choice : placement_.Choose(node_.view, exclude, propose.info.nbytes, missing, node_.now)) {
      operation.tried.push_back(choice.node);
      copying.push_back(choice.node);
      operation.why[choice.node] = ReasonFor(ReasonKind::kReplica, PackReason(choice.reason));
    }
    for (const NodeId node : copying) {
      node_.Send(node, Pull{propose.name, propose.op, {}, node_.view.term, propose.info, {node_.config.self}, operation.why[node]});
    }
  }
  operation.next_send = node_.now + 4 * node_.config.retry;
  if (!copying.empty()) return;
  if (propose.holders.size() < wanted) return GiveUp(operation);  // it would be less safe than its client was told
  operation.phase = Phase::kProposing;
  SendPropose(operation);
}

// Nothing was proposed, so nothing can have happened.
void Proposer::GiveUp(const Operation& operation) {
  const Propose& propose = operation.propose;
  for (const NodeId node : operation.tried) node_.Send(node, Discard{propose.name, propose.op});
  node_.records->Drop(propose.name, propose.op);
  Finish(propose.op.count, Outcome::kAborted, {});
}

void Proposer::OnPullDone(NodeId from, const PullDone& message) {
  if (message.going || message.busy) return;
  auto it = operations_.find(message.op.count);
  if (message.op.session != node_.config.session || it == operations_.end()) {
    if (!message.ok) placement_.Suspect(from, node_.now);
    return;
  }
  Operation& operation = it->second;
  auto waiting = std::find(operation.copying.begin(), operation.copying.end(), from);
  if (operation.phase != Phase::kCopying || waiting == operation.copying.end()) return;
  operation.copying.erase(waiting);
  if (message.ok) {
    operation.propose.holders.push_back(from);
    operation.propose.reasons.push_back(operation.why[from]);
  } else {
    placement_.Suspect(from, node_.now);
  }
  ContinueCopying(operation);
}

// ---- proposals ----

void Proposer::SendPropose(Operation& operation) {
  operation.next_send = node_.now + node_.config.retry;
  Propose& propose = operation.propose;
  const Partition p = node_.PartitionFor(propose.name);
  propose.term = node_.known_term[p];
  if (propose.term != 0 && (propose.first_term == 0 || propose.term < propose.first_term)) {
    propose.first_term = propose.term;
  }
  propose.since = node_.records->since();
  propose.finished_below = *open_.begin();
  node_.Send(node_.assignment.Home(p), propose);
}

bool Proposer::OnProposeAnswer(NodeId from, const ProposeAnswer& message) {
  const bool newer = message.term > node_.known_term[message.partition];
  if (newer) node_.known_term[message.partition] = message.term;
  auto it = operations_.find(message.op.count);
  if (message.op.session != node_.config.session || it == operations_.end()) return false;
  Operation& operation = it->second;
  if (message.outcome == Outcome::kElsewhere) {
    if (newer && operation.phase == Phase::kProposing) SendPropose(operation);
    return false;
  }
  if (node_.Refuses(from, message.partition, message.term)) return false;
  if (message.outcome == Outcome::kCommitted) {
    const bool claims = !message.held && !operation.propose.remove;
    LearnCommitted(message.op, message.version, claims ? RecordState::kUnconfirmed : RecordState::kLive);
    return claims;
  }
  // A refusal of an earlier term says nothing about what a later home did with the same proposal.
  if (operation.phase != Phase::kProposing || message.term != operation.propose.term) return false;
  if (!operation.propose.remove) {
    if (message.outcome == Outcome::kAmbiguous) {
      node_.records->SetState(operation.propose.name, message.op, RecordState::kQuarantined, {});
    } else {
      for (const NodeId node : operation.tried) node_.Send(node, Discard{operation.propose.name, message.op});
      node_.records->Drop(operation.propose.name, message.op);
    }
  }
  Finish(message.op.count, message.outcome, message.version);
  return false;
}

void Proposer::OnOpQuery(NodeId from, const OpQuery& message) {
  node_.Send(from, OpQueryAnswer{message.name, message.op, IsProposing(message.op)});
}

bool Proposer::IsProposing(OpId op) const {
  if (op.session != node_.config.session) return false;
  auto it = operations_.find(op.count);
  return it != operations_.end() && it->second.phase != Phase::kResolving;
}

std::string Proposer::NameOf(OpId op) const {
  auto it = operations_.find(op.count);
  return op.session == node_.config.session && it != operations_.end() ? it->second.propose.name : std::string();
}

void Proposer::LearnCommitted(OpId op, Version version, RecordState state) {
  auto it = operations_.find(op.count);
  if (op.session != node_.config.session || it == operations_.end()) return;
  const Propose& propose = it->second.propose;
  const auto record = node_.records->Find(propose.name, op);
  if (record && record->state == RecordState::kPrepared) {
    node_.records->SetState(propose.name, op, state, version);
  }
  Finish(op.count, Outcome::kCommitted, version);
}

void Proposer::LearnLost(OpId op) {
  if (op.session == node_.config.session && operations_.count(op.count)) Finish(op.count, Outcome::kAmbiguous, {});
}

void Proposer::Finish(uint64_t count, Outcome outcome, Version version) {
  auto it = operations_.find(count);
  const OpId op = it->second.propose.op;
  operations_.erase(it);
  open_.erase(count);
  node_.environment->FinishOperation(op, outcome, version);
}

std::vector<std::pair<std::string, OpId>> Proposer::StopProposing() {
  std::vector<std::pair<std::string, OpId>> stopped;
  for (auto& [count, operation] : operations_) {
    if (operation.propose.remove) continue;
    if (operation.propose.first_term == 0) {  // nobody can have carried it out, but its targets may have given up
      operation.propose.holders = {node_.config.self};
      operation.propose.reasons.resize(1);
      operation.copying.clear();
      operation.tried.clear();
      operation.phase = Phase::kCopying;
      operation.copy_until = node_.now + node_.config.pull_patience;
      operation.next_send = node_.now;
      continue;
    }
    operation.phase = Phase::kResolving;
    stopped.emplace_back(operation.propose.name, operation.propose.op);
  }
  return stopped;
}

// ---- lookups ----

void Proposer::Lookup(uint64_t ticket, const std::vector<std::string>& names, bool lease) {
  const uint64_t request = ++last_request_;
  PendingLookup& lookup = lookups_[request];
  lookup.ticket = ticket;
  lookup.lease = lease;
  lookup.names = names;
  lookup.results.resize(names.size());
  lookup.missing = names.size();
  lookup.sent = node_.now;
  SendLookup(request, lookup);
}

void Proposer::SendLookup(uint64_t request, PendingLookup& lookup) {
  std::map<NodeId, directory::Lookup> messages;
  for (uint32_t i = 0; i < lookup.names.size(); ++i) {
    if (lookup.results[i].status != LookupStatus::kElsewhere) continue;
    messages[node_.HomeOf(lookup.names[i])].names.push_back({i, lookup.names[i]});
  }
  lookup.next_send = node_.now + node_.config.retry;
  for (auto& [home, message] : messages) {
    message.request = request;
    message.lease = lookup.lease;
    node_.Send(home, std::move(message));
  }
}

void Proposer::OnLookupAnswer(const LookupAnswer& message) {
  auto it = lookups_.find(message.request);
  if (it == lookups_.end()) return;
  PendingLookup& lookup = it->second;
  for (const LookupAnswerItem& item : message.items) {
    if (item.index >= lookup.results.size() || item.result.status == LookupStatus::kElsewhere) continue;
    LookupResult& result = lookup.results[item.index];
    if (result.status == LookupStatus::kElsewhere) --lookup.missing;
    result = item.result;
  }
  if (lookup.missing > 0) return;
  const PendingLookup done = std::move(lookup);
  lookups_.erase(it);
  const Time lease_until = done.sent + node_.config.name_lease - node_.config.name_lease_margin;
  node_.environment->FinishLookup(done.ticket, done.results, done.lease && !done.recalled ? lease_until : 0);
}

void Proposer::RecallCopy(std::string_view name) {
  for (auto& [request, lookup] : lookups_) {
    if (std::find(lookup.names.begin(), lookup.names.end(), name) != lookup.names.end()) lookup.recalled = true;
  }
  node_.environment->RecallCopy(name);
}

// ---- moves ----

void Proposer::MoveTensor(uint64_t ticket, std::string name, NodeId to, bool copy) {
  for (auto& [request, pending] : moves_) {
    if (pending.move.name == name && pending.move.to == to && pending.move.copy == copy) return pending.tickets.push_back(ticket);
  }
  const uint64_t request = ++last_request_;
  PendingMove& move = moves_[request];
  move.tickets.push_back(ticket);
  move.move = {request, std::move(name), to, copy};
  SendMove(move);
}

void Proposer::SendMove(PendingMove& move) {
  move.next_send = node_.now + 4 * node_.config.retry;
  node_.Send(node_.HomeOf(move.move.name), move.move);
}

void Proposer::OnMoveAnswer(const MoveAnswer& message) {
  auto it = moves_.find(message.request);
  if (it == moves_.end() || message.outcome == MoveOutcome::kElsewhere) return;
  const std::vector<uint64_t> tickets = std::move(it->second.tickets);
  moves_.erase(it);
  for (const uint64_t ticket : tickets) node_.environment->FinishMove(ticket, message);
}

// ---- views and time ----

void Proposer::OnView() {
  for (auto& [count, operation] : operations_) operation.next_send = node_.now;
  for (auto& [request, lookup] : lookups_) lookup.next_send = node_.now;
  for (auto& [request, move] : moves_) move.next_send = node_.now;
}

void Proposer::Tick() {
  std::vector<uint64_t> due;
  for (auto& [count, operation] : operations_) {
    if (node_.now >= operation.next_send && operation.phase != Phase::kResolving) due.push_back(count);
  }
  for (const uint64_t count : due) {
    Operation& operation = operations_[count];
    operation.phase == Phase::kCopying ? ContinueCopying(operation) : SendPropose(operation);
  }
  for (auto& [request, lookup] : lookups_) {
    if (node_.now >= lookup.next_send) SendLookup(request, lookup);
  }
  for (auto& [request, move] : moves_) {
    if (node_.now >= move.next_send) SendMove(move);
  }
}

}  // namespace penstock::server::directory
