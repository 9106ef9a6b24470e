#include "server/directory/home_takeover.h"

#include <algorithm>
#include <set>
#include <utility>

namespace penstock::server::directory {

bool HomeTakeover::IsRight(Partition p) const {
  const PartitionState& state = partitions_[p];
  const NodeId backup = node_.assignment.Backup(p);
  const Member* member = node_.view.Find(backup);
  return state.active && !state.frozen && node_.promised[p] <= state.term && state.backup == backup &&
         (backup == 0 || (member && member->session == state.backup_session));
}

void HomeTakeover::OnView() {
  moves_.clear();
  activating_.clear();
  activate_again_ = 0;
  if (!node_.InView()) return;
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (node_.assignment.Home(p) == node_.config.self && !IsRight(p)) moves_.try_emplace(p);
  }
  if (moves_.empty()) return;
  read_again_ = node_.now + 10 * node_.config.retry;
  node_.environment->ReadActivations(node_.view.term);
}

void HomeTakeover::OnRefused(const Refused& message) {
  const Partition p = message.partition;
  const PartitionState& state = partitions_[p];
  if (!state.active || message.promised <= state.term || message.promised > node_.view.term) return;
  if (node_.assignment.Home(p) != node_.config.self || !moves_.try_emplace(p).second) return;
  read_again_ = node_.now + 10 * node_.config.retry;
  node_.environment->ReadActivations(node_.view.term);
}

void HomeTakeover::OnActivations(Term view, const std::vector<Activation>& activations) {
  if (view != node_.view.term) return;
  for (auto& [p, move] : moves_) {
    if (move.phase != Phase::kReading) continue;
    move.phase = Phase::kWaiting;
    move.last = activations[p];
  }
  StartWaiting();
  SendAllAsks();
}

void HomeTakeover::StartWaiting() {
  size_t under_way = 0;
  for (const auto& [p, move] : moves_) {
    under_way += move.phase == Phase::kGathering || move.phase == Phase::kAnnouncing || move.phase == Phase::kPushing;
  }
  for (auto& [p, move] : moves_) {
    if (under_way >= node_.config.moves_at_once) return;
    if (move.phase != Phase::kWaiting || Overtaken(p)) continue;
    Begin(p, move);
    ++under_way;
  }
}

void HomeTakeover::Begin(Partition p, Move& move) {
  PartitionState& state = partitions_[p];
  const Term view = node_.view.term;
  node_.Promise(p, view);
  if (move.last.term == 0) return BeginAnnouncing(move);
  const bool history = state.HasHistory(move.last.term);
  if (history && move.last.home == node_.config.self) {
    move.keeps_serving = state.active;
    state.frozen = true;
    return BeginPushing(p, move);
  }
  partitions_.StopServing(p);
  move.found_history = history;
  if (!history) move.floor = HistoryFloor();
  for (const NodeId node : {move.last.home, move.last.backup}) {
    if (node != 0 && node != node_.config.self && node_.view.Has(node)) move.sources.push_back({node, "", false});
  }
  move.phase = Phase::kGathering;
  next_ask_ = node_.now;
  if (move.sources.empty() || (history && !Keeps(Rule::kAllAnswer))) AfterGathering(p, move);
}

// ---- gathering ----

HomeTakeover::Source* HomeTakeover::Expected(Move& move, NodeId from, const std::string& after) {
  for (Source& source : move.sources) {
    if (source.node == from && !source.done && source.after == after) return &source;
  }
  return nullptr;
}

void HomeTakeover::SendAllAsks() {
  next_ask_ = node_.now + node_.config.retry;
  std::set<NodeId> asked;
  for (const auto& [p, move] : moves_) {
    if (move.phase != Phase::kGathering && move.phase != Phase::kAnnouncing) continue;
    for (const Source& source : move.sources) {
      if (!source.done) asked.insert(source.node);
    }
  }
  for (const NodeId node : asked) SendAsks(node);
}

void HomeTakeover::SendAsks(NodeId to) {
  HandoverAsk handover{node_.view.term, {}, {}};
  AnnounceAsk announce{node_.view.term, 0, {}, {}};
  const Member* member = node_.view.Find(to);
  announce.since = member ? member->since : 0;
  for (const auto& [p, move] : moves_) {
    for (const Source& source : move.sources) {
      if (source.node != to || source.done) continue;
      if (move.phase == Phase::kGathering) {
        if (handover.items.empty()) handover.after = source.after;
        handover.items.push_back({p, move.last.term});
      } else if (move.phase == Phase::kAnnouncing) {
        if (announce.partitions.empty()) announce.after = source.after;
        announce.partitions.push_back(p);
      }
    }
  }
  if (!handover.items.empty()) node_.Send(to, std::move(handover));
  if (!announce.partitions.empty()) node_.Send(to, std::move(announce));
}

void HomeTakeover::OnHandoverPart(NodeId from, HandoverPart message) {
  if (message.view != node_.view.term) return;
  auto it = moves_.find(message.partition);
  if (it == moves_.end() || it->second.phase != Phase::kGathering || Overtaken(it->first)) return;
  Move& move = it->second;
  Source* source = Expected(move, from, message.after);
  if (!source) return;
  PartitionState& state = partitions_[it->first];
  // With the history here already, the others' can only add to it.
  EntryTable& table = state.HasHistory(move.last.term) ? state.table : move.gathered;
  HistoryFloor& floor = state.HasHistory(move.last.term) ? state.floor : move.floor;
  if (message.complete) {
    move.found_history = true;
    floor.stamp = std::max(floor.stamp, message.floor.stamp);
    floor.number = std::max(floor.number, message.floor.number);
    floor.lost_before = std::max(floor.lost_before, message.floor.lost_before);
    floor.loss_is_recent |= message.floor.loss_is_recent;
  }
  if (!message.entries.empty()) source->after = std::string(message.entries.back().name());
  for (Entry& entry : message.entries) table.Put(std::move(entry));
  source->done = message.last;
  const bool all = std::all_of(move.sources.begin(), move.sources.end(), [](const Source& s) { return s.done; });
  const bool cut = message.cut;
  if (all || (!Keeps(Rule::kAllAnswer) && message.last && message.complete)) AfterGathering(it->first, move);
  if (cut) SendAsks(from);
}

void HomeTakeover::AfterGathering(Partition p, Move& move) {
  if (!move.found_history) return BeginAnnouncing(move);
  TakeGathered(p, move);
  BeginPushing(p, move);
}

void HomeTakeover::TakeGathered(Partition p, Move& move) {
  PartitionState& state = partitions_[p];
  if (!state.HasHistory(move.last.term)) {
    state.table = std::move(move.gathered);
    state.floor = move.floor;
  }
  state.read_from = 0;
  state.complete = true;
  state.staging.reset();
  state.term = node_.view.term;
  state.base = move.last.term;
  partitions_.SaveAll(p);
}

// ---- history is lost ----

void HomeTakeover::BeginAnnouncing(Move& move) {
  move.phase = Phase::kAnnouncing;
  move.sources.clear();
  move.gathered.Clear();
  for (const Member& member : node_.view.members) move.sources.push_back({member.id, "", false});
  next_ask_ = node_.now;
}

void HomeTakeover::OnAnnouncePart(NodeId from, AnnouncePart message) {
  if (message.view != node_.view.term) return;
  auto it = moves_.find(message.partition);
  if (it == moves_.end() || it->second.phase != Phase::kAnnouncing || Overtaken(it->first)) return;
  Move& move = it->second;
  Source* source = Expected(move, from, message.after);
  if (!source) return;
  if (!message.records.empty()) source->after = message.records.back().name;
  for (HeldRecord& record : message.records) {
    move.floor.number = std::max(move.floor.number, record.version.number);
    if (record.state == RecordState::kLive) move.announced[record.name].emplace_back(from, std::move(record));
  }
  source->done = message.last;
  const bool cut = message.cut;
  const bool all = std::all_of(move.sources.begin(), move.sources.end(), [](const Source& s) { return s.done; });
  if (all) {
    Rebuild(it->first, move);
    BeginPushing(it->first, move);
  }
  if (cut) SendAsks(from);
}

void HomeTakeover::Rebuild(Partition p, Move& move) {
  PartitionState& state = partitions_[p];
  state.table.Clear();
  state.last_change = 0;
  for (const auto& [name, records] : move.announced) {
    Entry entry = RebuiltEntry(p, name, records);
    entry.stamp = {node_.view.term, ++state.last_change};
    state.table.Put(std::move(entry));
  }
  move.announced.clear();
  if (move.last.term != 0) node_.environment->OnHistoryLost(p);
  // Nothing was ever active, and nobody has anything that was put: the beginning of a cluster.
  const bool beginning = move.last.term == 0 && move.floor.number == 0;
  state.floor = {.number = move.floor.number, .lost_before = beginning ? 0 : node_.view.term,
                 .loss_is_recent = !beginning};
  state.read_from = 0;
  state.complete = true;
  state.staging.reset();
  state.term = node_.view.term;
  state.base = move.last.term;
  partitions_.SaveAll(p);
}

Entry HomeTakeover::RebuiltEntry(Partition p, const std::string& name,
                                 const std::vector<std::pair<NodeId, HeldRecord>>& records) const {
  const HeldRecord* best = &records.front().second;
  for (const auto& [node, record] : records) {
    if (record.version > best->version) best = &record;
  }
  Entry entry;
  entry.SetText(name, best->info);
  entry.version = best->version;
  entry.op = best->op;
  entry.nbytes = best->nbytes;
  entry.replicas = best->replicas;
  entry.cache = best->cache;
  for (const auto& [node, record] : records) {
    if (record.op == best->op) entry.holders.push_back(node);
  }
  return entry;
}

// ---- to the backup ----

void HomeTakeover::BeginPushing(Partition p, Move& move) {
  move.sources.clear();
  if (node_.assignment.Backup(p) == 0) {
    move.phase = Phase::kReady;
    return ActivateReady();
  }
  move.phase = Phase::kPushing;
  move.chunk = 0;
  move.pushed_from.clear();
  SendPush(p, move);
}

void HomeTakeover::SendPush(Partition p, Move& move) {
  const PartitionState& state = partitions_[p];
  Push push{.view = node_.view.term, .partition = p, .base = move.last.term, .chunk = move.chunk};
  push.floor = state.FloorAt(node_.now);
  const Entry* entry = state.table.Next(move.pushed_from, move.chunk == 0);
  while (entry && push.entries.size() < node_.config.entries_per_message) {
    push.entries.push_back(*entry);
    entry = state.table.Next(entry->name());
  }
  push.last = entry == nullptr;
  move.last_chunk = push.last;
  move.pushed_to = push.entries.empty() ? move.pushed_from : std::string(push.entries.back().name());
  move.next_send = node_.now + node_.config.retry;
  node_.Send(node_.assignment.Backup(p), std::move(push));
}

void HomeTakeover::OnPushAck(NodeId from, const PushAck& message) {
  if (message.view != node_.view.term || from != node_.assignment.Backup(message.partition)) return;
  auto it = moves_.find(message.partition);
  if (it == moves_.end() || it->second.phase != Phase::kPushing || Overtaken(it->first)) return;
  Move& move = it->second;
  if (move.chunk != message.chunk) return;
  if (move.last_chunk) {
    move.phase = Phase::kReady;
    ActivateReady();
    return StartWaiting();
  }
  ++move.chunk;
  move.pushed_from = move.pushed_to;
  SendPush(it->first, move);
}

// ---- activation ----

void HomeTakeover::ActivateReady() {
  if (!activating_.empty()) return;
  std::vector<ActivatePartition> ready;
  for (auto& [p, move] : moves_) {
    if (move.phase != Phase::kReady || Overtaken(p)) continue;
    move.phase = Phase::kActivating;
    PartitionState& state = partitions_[p];
    if (state.term != node_.view.term) {  // this node was home and stays it
      state.base = move.last.term;
      state.term = node_.view.term;
      state.last_change = 0;
      partitions_.SaveHeader(p);
    }
    activating_.push_back(p);
    ready.push_back({p, node_.assignment.Backup(p)});
  }
  if (ready.empty()) return;
  activate_again_ = 0;
  node_.environment->Activate(node_.view.term, ready);
}

void HomeTakeover::OnActivated(Term view, bool ok, bool retry) {
  if (view != node_.view.term || activating_.empty()) return;
  if (!ok) {
    // Another view exists (then it comes), or nobody knows: the same transaction does no harm.
    if (retry) activate_again_ = node_.now + node_.config.retry;
    return;
  }
  std::vector<Partition> done = std::move(activating_);
  activating_.clear();
  activate_again_ = 0;
  for (const Partition p : done) {
    auto it = moves_.find(p);
    if (it == moves_.end()) continue;
    Move move = std::move(it->second);
    moves_.erase(it);
    Serve(p, move);
  }
  for (const Member& member : node_.view.members) node_.Send(member.id, Activated{node_.view.term, done});
  StartWaiting();
  ActivateReady();
}

void HomeTakeover::Serve(Partition p, Move& move) {
  PartitionState& state = partitions_[p];
  if (Overtaken(p)) return;
  const Member* backup = node_.view.Find(node_.assignment.Backup(p));
  state.active = true;
  state.frozen = false;
  state.backup = backup ? backup->id : 0;
  state.backup_session = backup ? backup->session : 0;
  if (!move.keeps_serving) {
    state.quiet_until = node_.now + node_.config.name_lease;
    state.read_from = state.floor.loss_is_recent ? state.quiet_until : 0;
  }
  state.scan_needed = true;
  state.scanned = false;
  state.scan_after.clear();
  state.collect_at = node_.now + node_.config.tombstone_age;
  state.collect_upto = {state.term, state.last_change};
  operations_.Restart(p);
}

void HomeTakeover::Tick() {
  if (moves_.empty()) return;
  if (!Keeps(Rule::kActivation) && !activating_.empty()) OnActivated(node_.view.term, true, false);
  if (moves_.empty()) return;
  const bool reading =
      std::any_of(moves_.begin(), moves_.end(), [](const auto& move) { return move.second.phase == Phase::kReading; });
  if (reading && node_.now >= read_again_) {
    read_again_ = node_.now + 10 * node_.config.retry;
    node_.environment->ReadActivations(node_.view.term);
  }
  StartWaiting();
  if (node_.now >= next_ask_) SendAllAsks();
  for (auto& [p, move] : moves_) {
    if (move.phase == Phase::kPushing && node_.now >= move.next_send && !Overtaken(p)) SendPush(p, move);
  }
  if (activate_again_ != 0 && node_.now >= activate_again_) {
    activate_again_ = 0;
    for (const Partition p : activating_) moves_[p].phase = Phase::kReady;
    activating_.clear();
    ActivateReady();
  }
}

}  // namespace penstock::server::directory
