#include "server/directory/name_operation.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace penstock::server::directory {

NameOperations::Operation& NameOperations::OperationFor(Partition p, std::string_view name) {
  auto [it, added] = operations_.try_emplace(std::string(name));
  if (added) {
    it->second = std::make_unique<Operation>();
    it->second->partition = p;
    it->second->name = std::string(name);
  }
  return *it->second;
}

// ---- requests ----

void NameOperations::Elsewhere(NodeId to, const Propose& propose) {
  const Partition p = node_.PartitionFor(propose.name);
  const Term term = partitions_.CanDecide(p) ? partitions_[p].term : 0;
  node_.Send(to, ProposeAnswer{propose.op, p, term, Outcome::kElsewhere, {}});
}

void NameOperations::OnPropose(NodeId from, Propose message) {
  const Partition p = node_.PartitionFor(message.name);
  const Member* sender = node_.view.FindSession(message.op.session);
  if (!sender || sender->id != from || sender->since != message.since) return;
  finished_.ForgetBelow(message.op.session, message.finished_below);
  if (!partitions_.CanDecide(p) || (partitions_[p].term != message.term && Keeps(Rule::kOperationOnce))) {
    return Elsewhere(from, message);
  }
  if (finished_.IsForgotten(message.op) && Keeps(Rule::kOperationOnce)) return;
  Operation& operation = OperationFor(p, message.name);
  for (const Request& waiting : operation.queue) {
    if (waiting.kind == Kind::kPropose && waiting.propose.op == message.op) return;
  }
  Request request{.kind = Kind::kPropose, .from = from, .session = message.op.session};
  request.from_earlier_term = message.first_term < partitions_[p].term;
  request.propose = std::move(message);
  operation.queue.push_back(std::move(request));
  Advance(operation);
}

void NameOperations::OnResolve(NodeId from, Resolve message) {
  const Member* sender = node_.view.FindSession(message.session);
  if (!sender || sender->id != from) return;
  uint64_t& last = last_resolve_[message.session];
  if (message.sequence <= last && Keeps(Rule::kOperationOnce)) return;
  last = std::max(last, message.sequence);
  Verdicts elsewhere;
  for (ResolveItem& item : message.items) {
    const Partition p = node_.PartitionFor(item.name);
    const bool old_view = item.version == Version{} && item.prepared_in > node_.view.term;
    if (!partitions_.CanDecide(p) || partitions_[p].term != item.term || old_view) {
      const Term term = partitions_.CanDecide(p) ? partitions_[p].term : 0;
      elsewhere.items.push_back({p, term, item.name, item.op, item.question, VerdictKind::kElsewhere, {}});
      continue;
    }
    Operation& operation = OperationFor(p, item.name);
    auto same = std::find_if(operation.queue.begin(), operation.queue.end(), [&](const Request& waiting) {
      return waiting.kind == Kind::kClaim && waiting.from == from && waiting.claim.op == item.op;
    });
    if (same != operation.queue.end()) {
      same->claim = std::move(item);  // the newest question is the one to answer
    } else {
      Request request{.kind = Kind::kClaim, .from = from, .session = message.session};
      request.claim = std::move(item);
      operation.queue.push_back(std::move(request));
    }
    Advance(operation);
  }
  if (!elsewhere.items.empty()) node_.Send(from, std::move(elsewhere));
}

void NameOperations::LoseHolders(Partition p, std::string_view name) {
  Operation& operation = OperationFor(p, name);
  for (const Request& waiting : operation.queue) {
    if (waiting.kind == Kind::kLose) return;
  }
  operation.queue.push_back(Request{.kind = Kind::kLose});
  Advance(operation);
}

// ---- the machine ----

void NameOperations::Advance(Operation& operation) {
  while (!operation.queue.empty() && Step(operation)) {
  }
  if (operation.phase == Phase::kIdle) AnswerReaders(operation);
  if (operation.queue.empty()) operations_.erase(std::string(operation.name));
}

bool NameOperations::Step(Operation& operation) {
  const Partition p = operation.partition;
  const PartitionState& state = partitions_[p];
  if (!partitions_.CanDecide(p)) return false;
  switch (operation.phase) {
    case Phase::kIdle:
      Judge(operation);
      return true;
    case Phase::kRecalling: {
      const bool copies = node_.now < state.quiet_until || !leases_.Holders(operation.name, node_.now).empty();
      if (!operation.recalling.empty() && Keeps(Rule::kSupersedeWaited)) return false;
      if (copies && Keeps(Rule::kNameLeaseWaited)) return false;
      operation.phase = Phase::kReplicating;
      SendReplicate(operation);
      return true;
    }
    case Phase::kReplicating:
      if (!operation.replicated && state.backup != 0 && Keeps(Rule::kBackupWaited)) return false;
      Commit(operation);
      return true;
  }
  return false;
}

void NameOperations::Judge(Operation& operation) {
  Request& request = operation.queue.front();
  if (request.kind == Kind::kLose) return JudgeLose(operation);
  const Member* sender = node_.view.FindSession(request.session);
  // A process that is gone asks no more; one that was away meanwhile asks again, if it still may.
  const bool was_away = request.kind == Kind::kPropose && sender && sender->since != request.propose.since;
  if (!sender || was_away) return PopFirst(operation);
  if (request.kind == Kind::kPropose) return JudgePropose(operation, request);
  JudgeClaim(operation, request);
}

std::optional<OperationResult> NameOperations::Refusal(const Operation& operation, const Request& request,
                                                       const Entry* entry) const {
  const Propose& propose = request.propose;
  const PartitionState& state = partitions_[operation.partition];
  if (entry && entry->op == propose.op) return OperationResult{Outcome::kCommitted, entry->version};
  if (Keeps(Rule::kOperationOnce)) {
    // Before all else: what this home decided before history was lost may be gone with it.
    if (propose.first_term < state.floor.lost_before) return OperationResult{Outcome::kAmbiguous, {}};
    if (auto done = finished_.Find(propose.op)) return done;
    if (finished_.IsForgotten(propose.op)) return OperationResult{Outcome::kAborted, {}};
    // An older home may have carried out this delete, and somebody has changed the name since. (A put's proposer learns
    // that from the Supersede, because it is a holder.)
    const Term changed_in = entry ? entry->stamp.term : state.floor.stamp.term;
    if (propose.remove && request.from_earlier_term && changed_in >= propose.first_term) {
      return OperationResult{Outcome::kAmbiguous, {}};
    }
  }
  const bool live = entry && !entry->deleted;
  const Version present = live ? entry->version : Version{};
  const uint64_t last = std::max(entry ? entry->version.number : 0, state.floor.number);
  const Conditions& wanted = propose.conditions;
  if (wanted.if_absent && live) return OperationResult{Outcome::kConflict, present};
  if (wanted.if_version != 0 && present.number != wanted.if_version) {
    return OperationResult{Outcome::kConflict, present};
  }
  if (wanted.version != 0 && wanted.version <= last) return OperationResult{Outcome::kConflict, present};
  if (propose.remove && !live) return OperationResult{Outcome::kNotFound, {}};
  if (!propose.remove && std::none_of(propose.holders.begin(), propose.holders.end(),
                                      [&](NodeId node) { return node_.view.Has(node); })) {
    return OperationResult{Outcome::kAborted, {}};
  }
  return std::nullopt;
}

void NameOperations::JudgePropose(Operation& operation, Request& request) {
  const Entry* entry = partitions_[operation.partition].table.Find(operation.name);
  if (auto refused = Refusal(operation, request, entry)) {
    finished_.Remember(request.propose.op, *refused);
    AnswerPropose(operation, request, *refused);
    return PopFirst(operation);
  }
  BeginPut(operation, request, entry);
}

void NameOperations::BeginPut(Operation& operation, const Request& request, const Entry* entry) {
  const Propose& propose = request.propose;
  const PartitionState& state = partitions_[operation.partition];
  Entry next;
  next.SetText(operation.name, propose.remove ? std::string_view() : propose.info.info);
  next.op = propose.op;
  next.deleted = propose.remove;
  if (!propose.remove) {
    next.nbytes = propose.info.nbytes;
    next.replicas = propose.info.replicas;
    next.cache = propose.info.cache;
    for (size_t i = 0; i < propose.holders.size(); ++i) {
      const NodeId node = propose.holders[i];
      if (node_.view.Has(node) && !next.HeldBy(node)) next.AddHolder(node, i < propose.reasons.size() ? propose.reasons[i] : 0);
    }
  }
  const uint64_t last = std::max(entry ? entry->version.number : 0, state.floor.number);
  next.version = {state.term, std::max(last + 1, propose.conditions.version)};
  operation.recalling.clear();
  if (entry && !entry->deleted) {
    for (const NodeId node : entry->holders) {
      if (node_.view.Has(node)) operation.recalling.push_back(node);
    }
  }
  BeginChange(operation, std::move(next), Phase::kRecalling);
  SendRecalls(operation);
}

void NameOperations::BeginChange(Operation& operation, Entry next, Phase phase) {
  operation.next = std::move(next);
  operation.next.stamp = partitions_.NextStamp(operation.partition);
  operation.phase = phase;
  operation.run = ++last_run_;
  operation.replicated = false;
  operation.next_send = node_.now + node_.config.retry;
  if (phase == Phase::kReplicating) SendReplicate(operation);
}

void NameOperations::SendRecalls(Operation& operation) {
  const PartitionState& state = partitions_[operation.partition];
  if (const Entry* entry = state.table.Find(operation.name)) {
    for (const NodeId node : operation.recalling) {
      node_.Send(node, Supersede{operation.partition, state.term, operation.run, operation.name, entry->op,
                                 entry->version});
    }
  }
  for (const NodeId node : leases_.Holders(operation.name, node_.now)) {
    node_.Send(node, Recall{operation.run, operation.name});
  }
}

void NameOperations::SendReplicate(Operation& operation) {
  const PartitionState& state = partitions_[operation.partition];
  node_.Send(state.backup, Replicate{operation.partition, state.term, operation.next});
}

void NameOperations::OnRunAck(NodeId from, const RunAck& message) {
  auto it = operations_.find(message.name);
  if (it == operations_.end() || it->second->run != message.run) return;
  Operation& operation = *it->second;
  auto& recalling = operation.recalling;
  if (message.superseded) recalling.erase(std::remove(recalling.begin(), recalling.end(), from), recalling.end());
  leases_.Returned(message.name, from);
  Advance(operation);
}

void NameOperations::OnReplicateAck(NodeId from, const ReplicateAck& message) {
  auto it = operations_.find(message.name);
  if (it == operations_.end()) return;
  Operation& operation = *it->second;
  const PartitionState& state = partitions_[operation.partition];
  if (operation.phase != Phase::kReplicating || state.backup != from || state.term != message.term) return;
  if (operation.next.stamp != message.stamp) return;
  operation.replicated = true;
  Advance(operation);
}

void NameOperations::Commit(Operation& operation) {
  PartitionState& state = partitions_[operation.partition];
  Request& request = operation.queue.front();
  const Entry* found = state.table.Find(operation.name);
  const std::optional<Entry> old = found ? std::optional<Entry>(*found) : std::nullopt;
  partitions_.Put(operation.partition, operation.next);
  const Entry& next = operation.next;
  if ((!next.deleted && next.holders.size() != next.replicas) || state.lost > 0) state.scan_needed = true;
  if (request.kind == Kind::kPropose) {
    // An earlier home may have committed it; its proposals may still be under way, or wait behind this one.
    if (old) finished_.Remember(old->op, {Outcome::kCommitted, old->version});
    for (const NodeId node : old && !old->deleted ? old->holders : Entry().holders) {
      node_.Send(node, Drop{operation.name, old->op, old->version});
    }
    for (const NodeId node : next.holders) {
      if (node != request.from) {
        node_.Send(node, Committed{operation.partition, state.term, operation.name, next.op, next.version});
      }
    }
    const OperationResult result{Outcome::kCommitted, next.version};
    finished_.Remember(next.op, result);
    AnswerPropose(operation, request, result);
    node_.environment->OnNameEvent(
        {next.deleted ? NameEventKind::kDeleted : NameEventKind::kPut, operation.name, next.version,
         {next.nbytes, next.replicas, next.cache, std::string(next.info())}});
  } else if (request.kind == Kind::kClaim) {
    const bool kept = !next.deleted && next.HeldBy(request.from);
    AnswerClaim(operation, request, kept ? VerdictKind::kLive : VerdictKind::kDrop, next.version);
    if (kept && old && old->holders.empty()) {
      node_.environment->OnNameEvent({NameEventKind::kFoundAgain, operation.name, next.version, {}});
    }
  } else if (next.holders.empty() && old && !old->holders.empty()) {
    node_.environment->OnNameEvent({NameEventKind::kLost, operation.name, next.version, {}});
  }
  PopFirst(operation);
}

void NameOperations::PopFirst(Operation& operation) {
  operation.queue.pop_front();
  operation.phase = Phase::kIdle;
  operation.recalling.clear();
  operation.run = 0;
  AnswerReaders(operation);
}

void NameOperations::AnswerPropose(const Operation& operation, const Request& request, OperationResult result) {
  const PartitionState& state = partitions_[operation.partition];
  const Entry* entry = state.table.Find(operation.name);
  const bool held = !entry || entry->op != request.propose.op || entry->HeldBy(request.from);
  node_.Send(request.from, ProposeAnswer{request.propose.op, operation.partition, state.term, result.outcome,
                                         result.version, held});
}

// ---- claims and losses ----

void NameOperations::AnswerClaim(const Operation& operation, const Request& request, VerdictKind kind,
                                 Version version) {
  Verdicts verdicts;
  verdicts.items.push_back({operation.partition, partitions_[operation.partition].term, operation.name,
                            request.claim.op, request.claim.question, kind, version});
  node_.Send(request.from, std::move(verdicts));
}

VerdictKind NameOperations::VerdictOfUnknown(Partition p, const ResolveItem& claim, const Entry* entry) const {
  const Term lost_before = partitions_[p].floor.lost_before;
  const bool has_version = claim.version != Version{};
  const bool past = entry && (entry->version > claim.version || (entry->deleted && entry->version == claim.version));
  if (has_version && past) return VerdictKind::kDrop;
  const Term made_in = has_version ? claim.version.term : claim.prepared_in;
  if (made_in < lost_before || (has_version && entry)) return VerdictKind::kQuarantine;
  if (has_version && !Keeps(Rule::kUnknownDropped)) return VerdictKind::kLive;
  return VerdictKind::kDrop;
}

bool NameOperations::MayLeave(const Entry& entry, NodeId node, bool evicting, bool damaged) const {
  size_t others = 0;
  for (const NodeId holder : entry.holders) others += holder != node && node_.view.IsSteady(holder);
  if (entry.cache && evicting) return true;
  if (damaged) return others > 0;
  return others >= std::min<size_t>(entry.replicas, std::max<size_t>(1, node_.view.CountSteady()));
}

void NameOperations::JudgeClaim(Operation& operation, Request& request) {
  const ResolveItem& claim = request.claim;
  PartitionState& state = partitions_[operation.partition];
  const Entry* entry = state.table.Find(operation.name);
  const bool same = entry && !entry->deleted && entry->op == claim.op;
  if (!same) {
    const VerdictKind kind = VerdictOfUnknown(operation.partition, claim, entry);
    // From now on its proposal, should it still be under way, comes too late.
    if (claim.version == Version{}) finished_.Remember(claim.op, {Outcome::kAborted, {}});
    AnswerClaim(operation, request, kind, claim.version);
    return PopFirst(operation);
  }
  const bool leaves = claim.leaving && MayLeave(*entry, request.from, claim.evicting, claim.damaged);
  if (!leaves && claim.leaving) state.scan_needed = true;
  if (entry->HeldBy(request.from) != leaves) {
    AnswerClaim(operation, request, leaves ? VerdictKind::kDrop : VerdictKind::kLive, entry->version);
    return PopFirst(operation);
  }
  Entry next = *entry;
  if (leaves) {
    next.RemoveHolder(request.from);
    if (next.holders.empty()) {  // the last copy of a cache tensor: the name is gone with it
      next.deleted = true;
      next.SetText(operation.name, {});
    }
  } else {
    next.AddHolder(request.from, claim.reason);
  }
  // A name that goes must not be served from copies either.
  const Phase phase = next.deleted ? Phase::kRecalling : Phase::kReplicating;
  BeginChange(operation, std::move(next), phase);
  if (phase == Phase::kRecalling) SendRecalls(operation);
}

void NameOperations::JudgeLose(Operation& operation) {
  const Entry* entry = partitions_[operation.partition].table.Find(operation.name);
  if (!entry) return PopFirst(operation);
  Entry next = *entry;
  for (const NodeId node : entry->holders) {
    if (!node_.view.Has(node)) next.RemoveHolder(node);
  }
  if (next.holders.size() == entry->holders.size()) return PopFirst(operation);
  BeginChange(operation, std::move(next), Phase::kReplicating);
}

// ---- views and time ----

void NameOperations::Restart(Partition p) {
  std::vector<Operation*> mine;
  for (auto& [name, operation] : operations_) {
    if (operation->partition == p) mine.push_back(operation.get());
  }
  for (Operation* operation : mine) {
    operation->phase = Phase::kIdle;
    operation->run = 0;
    operation->recalling.clear();
    Advance(*operation);
  }
}

void NameOperations::GiveUp(Partition p) {
  for (auto it = operations_.begin(); it != operations_.end();) {
    Operation& operation = *it->second;
    if (operation.partition != p) {
      ++it;
      continue;
    }
    for (const Request& request : operation.queue) {
      if (request.kind == Kind::kPropose) Elsewhere(request.from, request.propose);
    }
    for (const Reader& reader : operation.readers) Answer(reader, LookupResult{});
    it = operations_.erase(it);
  }
}

void NameOperations::OnView() {
  finished_.ForgetStrangers(node_.view, node_.now);
  std::vector<Operation*> all;
  for (auto& [name, operation] : operations_) {
    auto& recalling = operation->recalling;
    recalling.erase(std::remove_if(recalling.begin(), recalling.end(), [&](NodeId n) { return !node_.view.Has(n); }),
                    recalling.end());
    all.push_back(operation.get());
  }
  for (Operation* operation : all) Advance(*operation);
}

void NameOperations::Tick() {
  leases_.Expire(node_.now);
  std::vector<Operation*> all;
  for (auto& [name, operation] : operations_) all.push_back(operation.get());
  for (Operation* operation : all) {
    if (node_.now >= operation->next_send && partitions_.CanDecide(operation->partition)) {
      operation->next_send = node_.now + node_.config.retry;
      if (operation->phase == Phase::kRecalling) SendRecalls(*operation);
      if (operation->phase == Phase::kReplicating && !operation->replicated) SendReplicate(*operation);
    }
    Advance(*operation);
  }
}

bool NameOperations::Replicating(Partition p, Stamp upto) const {
  for (const auto& [name, operation] : operations_) {
    if (operation->partition == p && operation->phase != Phase::kIdle && operation->next.stamp <= upto) return true;
  }
  return false;
}

// ---- reads ----

void NameOperations::OnLookup(NodeId from, const Lookup& message) {
  LookupAnswer answer{message.request, {}};
  for (const LookupItem& item : message.names) {
    const Reader reader{from, message.request, item.index, message.lease};
    const Partition p = node_.PartitionFor(item.name);
    auto it = operations_.find(item.name);
    const bool changing = it != operations_.end() && it->second->phase != Phase::kIdle;
    if (changing && partitions_.CanRead(p)) {
      auto& readers = it->second->readers;
      readers.erase(std::remove_if(readers.begin(), readers.end(),
                                   [&](const Reader& r) {
                                     return r.node == from && r.request == reader.request && r.index == reader.index;
                                   }),
                    readers.end());
      readers.push_back(reader);
      continue;
    }
    answer.items.push_back({item.index, Read(p, item.name, reader)});
  }
  if (!answer.items.empty()) node_.Send(from, std::move(answer));
}

LookupResult NameOperations::Read(Partition p, std::string_view name, const Reader& reader) {
  LookupResult result;
  if (!partitions_.CanRead(p)) return result;
  const Entry* entry = partitions_[p].table.Find(name);
  result.status = LookupStatus::kAbsent;
  if (!entry || entry->deleted) {
    if (entry) result.version = entry->version;
    return result;
  }
  result.status = LookupStatus::kLost;
  result.version = entry->version;
  result.op = entry->op;
  result.info = {entry->nbytes, entry->replicas, entry->cache, std::string(entry->info())};
  for (size_t i = 0; i < entry->holders.size(); ++i) {
    if (!node_.view.Has(entry->holders[i])) continue;
    result.holders.push_back(entry->holders[i]);
    result.reasons.push_back(entry->WhyHolder(i));
  }
  if (result.holders.empty()) return result;
  result.status = LookupStatus::kFound;
  if (reader.lease) leases_.Grant(name, reader.node, node_.now + node_.config.name_lease);
  return result;
}

void NameOperations::Answer(const Reader& reader, LookupResult result) {
  LookupAnswer answer{reader.request, {}};
  answer.items.push_back({reader.index, std::move(result)});
  node_.Send(reader.node, std::move(answer));
}

void NameOperations::AnswerReaders(Operation& operation) {
  std::vector<Reader> readers = std::move(operation.readers);
  operation.readers.clear();
  for (const Reader& reader : readers) Answer(reader, Read(operation.partition, operation.name, reader));
}

}  // namespace penstock::server::directory
