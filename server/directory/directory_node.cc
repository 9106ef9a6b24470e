#include "server/directory/directory_node.h"

#include <algorithm>
#include <utility>

namespace penstock::server::directory {
namespace {

NodeState MakeState(const Config& config, Environment& environment, Records& records, Tables* tables) {
  NodeState state;
  state.config = config;
  state.environment = &environment;
  state.records = &records;
  state.tables = tables;
  state.promised.resize(config.partition_count);
  state.known_term.resize(config.partition_count);
  return state;
}

}  // namespace

DirectoryNode::DirectoryNode(const Config& config, Environment& environment, Records& records, Tables* tables)
    : node_(MakeState(config, environment, records, tables)),
      partitions_(node_, [this](Partition p) { operations_.GiveUp(p); }),
      operations_(node_, partitions_),
      takeover_(node_, partitions_, operations_),
      repair_(node_, partitions_, operations_, placement_),
      transfers_(node_, partitions_, operations_, placement_),
      rebalance_(node_, partitions_, repair_, transfers_, placement_),
      proposer_(node_, placement_),
      holder_(node_, partitions_, proposer_) {}

void DirectoryNode::OnView(Time now, const View& view) {
  node_.now = now;
  if (view.term <= node_.view.term) return;
  node_.view = view;
  node_.assignment = Assignment(view, node_.config.partition_count);
  const Member* me = view.Find(node_.config.self);
  const bool was_away = me && me->since > node_.records->since();
  if (was_away || !node_.InView()) {
    // Others may have become homes of what it served. (A view of its absence need not have come here.)
    node_.serve_until = 0;
    for (Partition p = 0; p < partitions_.count(); ++p) partitions_.StopServing(p);
  }
  if (was_away) holder_.NoteReturn(me->since);
  placement_.OnView(view, now);
  operations_.OnView();
  takeover_.OnView();
  repair_.OnView();
  rebalance_.OnView();
  proposer_.OnView();
  DeliverToSelf();
}

void DirectoryNode::OnLease(Time now, uint64_t lease, Time serve_until) {
  node_.now = now;
  const Member* me = node_.view.Find(node_.config.self);
  if (!node_.InView() || me->lease != lease) return;
  node_.serve_until = std::max(node_.serve_until, serve_until);
}

void DirectoryNode::OnMessage(Time now, NodeId from, Message message) {
  node_.now = now;
  Deliver(from, std::move(message));
  DeliverToSelf();
}

void DirectoryNode::DeliverToSelf() {
  while (!node_.to_self.empty()) {
    auto [from, message] = std::move(node_.to_self.front());
    node_.to_self.pop_front();
    Deliver(from, std::move(message));
  }
}

void DirectoryNode::Deliver(NodeId from, Message message) {
  struct Router {
    DirectoryNode& node;
    NodeId from;
    void operator()(Propose& m) { node.operations_.OnPropose(from, std::move(m)); }
    void operator()(ProposeAnswer& m) { node.holder_.OnProposeAnswer(from, m); }
    void operator()(Supersede& m) { node.holder_.OnSupersede(from, m); }
    void operator()(Recall& m) { node.holder_.OnRecall(from, m); }
    void operator()(RunAck& m) { node.operations_.OnRunAck(from, m); }
    void operator()(Replicate& m) { node.partitions_.OnReplicate(from, std::move(m)); }
    void operator()(ReplicateAck& m) { node.operations_.OnReplicateAck(from, m); }
    void operator()(Committed& m) { node.holder_.OnCommitted(from, m); }
    void operator()(Drop& m) { node.holder_.OnDrop(m); }
    void operator()(Discard& m) { node.holder_.OnDiscard(m); }
    void operator()(Resolve& m) { node.operations_.OnResolve(from, std::move(m)); }
    void operator()(Verdicts& m) { node.holder_.OnVerdicts(from, m); }
    void operator()(OpQuery& m) { node.proposer_.OnOpQuery(from, m); }
    void operator()(OpQueryAnswer& m) { node.holder_.OnOpQueryAnswer(m); }
    void operator()(directory::Lookup& m) { node.operations_.OnLookup(from, m); }
    void operator()(LookupAnswer& m) { node.proposer_.OnLookupAnswer(m); }
    void operator()(HandoverAsk& m) { node.partitions_.OnHandoverAsk(from, m); }
    void operator()(HandoverPart& m) { node.takeover_.OnHandoverPart(from, std::move(m)); }
    void operator()(AnnounceAsk& m) { node.holder_.OnAnnounceAsk(from, m); }
    void operator()(AnnouncePart& m) { node.takeover_.OnAnnouncePart(from, std::move(m)); }
    void operator()(Push& m) { node.partitions_.OnPush(from, std::move(m)); }
    void operator()(PushAck& m) { node.takeover_.OnPushAck(from, m); }
    void operator()(Activated& m) { node.partitions_.OnActivated(m); }
    void operator()(Refused& m) { node.takeover_.OnRefused(m); }
    void operator()(Pull& m) { node.holder_.OnPull(from, m); }
    void operator()(PullDone& m) {
      node.repair_.OnPullDone(from, m);
      node.transfers_.OnPullDone(from, m);
      node.proposer_.OnPullDone(from, m);
    }
    void operator()(Collect& m) { node.partitions_.OnCollect(from, m); }
    void operator()(CollectAck& m) { node.repair_.OnCollectAck(from, m); }
    void operator()(Move& m) { node.transfers_.OnMove(from, m); }
    void operator()(MoveAnswer& m) { node.proposer_.OnMoveAnswer(m); }
    void operator()(LetGo& m) { node.holder_.OnLetGo(m); }
    void operator()(LoadReport& m) {
      if (!node.node_.view.Has(from)) return;
      node.placement_.Report(from, {.free_bytes = std::min(m.free_bytes, m.total_bytes), .total_bytes = m.total_bytes, .busy = m.busy_percent / 100.0}, node.node_.now);
    }
  };
  std::visit(Router{*this, from}, message);
}

void DirectoryNode::OnActivations(Time now, Term view, const std::vector<Activation>& by_partition) {
  node_.now = now;
  if (by_partition.size() == node_.config.partition_count) takeover_.OnActivations(view, by_partition);
  DeliverToSelf();
}

void DirectoryNode::OnActivated(Time now, Term view, bool ok, bool retry) {
  node_.now = now;
  takeover_.OnActivated(view, ok, retry);
  DeliverToSelf();
}

void DirectoryNode::OnFetched(Time now, const std::string& name, OpId op, bool ok) {
  node_.now = now;
  holder_.OnFetched(name, op, ok);
  DeliverToSelf();
}

void DirectoryNode::TellLoad(Time now, const NodeLoad& load) {
  node_.now = now;
  const auto busy = static_cast<uint32_t>(100 * std::clamp(load.busy, 0.0, 1.0) + 0.5);
  for (const Member& member : node_.view.members) node_.Send(member.id, LoadReport{load.free_bytes, load.total_bytes, busy});
  DeliverToSelf();
}

void DirectoryNode::Tick(Time now) {
  node_.now = now;
  takeover_.Tick();
  operations_.Tick();
  repair_.Tick();
  transfers_.Tick();
  rebalance_.Tick();
  proposer_.Tick();
  holder_.Tick();
  if (node_.tables != nullptr) partitions_.SaveSome();
  DeliverToSelf();
}

// ---- local requests ----

void DirectoryNode::Put(Time now, OpId op, PutRequest request) {
  node_.now = now;
  proposer_.Put(op, std::move(request));
  DeliverToSelf();
}

void DirectoryNode::Delete(Time now, OpId op, std::string name, Conditions conditions) {
  node_.now = now;
  proposer_.Delete(op, std::move(name), conditions);
  DeliverToSelf();
}

void DirectoryNode::Lookup(Time now, uint64_t ticket, const std::vector<std::string>& names, bool lease) {
  node_.now = now;
  proposer_.Lookup(ticket, names, lease);
  DeliverToSelf();
}

void DirectoryNode::Evict(Time now, std::string_view name, OpId op) {
  node_.now = now;
  holder_.Leave(name, op, Holder::LeaveWhy::kEvicted);
  DeliverToSelf();
}

void DirectoryNode::LeaveDamaged(Time now, std::string_view name, OpId op) {
  node_.now = now;
  holder_.Leave(name, op, Holder::LeaveWhy::kDamaged);
  DeliverToSelf();
}

void DirectoryNode::MoveTensor(Time now, uint64_t ticket, std::string name, NodeId to, bool copy) {
  node_.now = now;
  proposer_.MoveTensor(ticket, std::move(name), to, copy);
  DeliverToSelf();
}

bool DirectoryNode::MayServe(Time now) const {
  if (!Keeps(Rule::kLeaseAtHolder)) return true;
  return node_.InView() && now < node_.serve_until;
}

std::optional<std::vector<ListedName>> DirectoryNode::List(Time now, std::string_view prefix, std::string_view after,
                                                           size_t limit) const {
  std::vector<ListedName> names;
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (node_.assignment.Home(p) != node_.config.self) continue;
    const PartitionState& state = partitions_[p];
    if (!state.active || now < state.read_from || now >= node_.serve_until) return std::nullopt;
    const EntryTable& table = partitions_[p].table;
    const bool from_prefix = after < prefix;
    size_t taken = 0;
    for (const Entry* entry = table.Next(from_prefix ? prefix : after, from_prefix); entry && taken < limit;
         entry = table.Next(entry->name())) {
      if (entry->name().substr(0, prefix.size()) != prefix) break;
      if (entry->deleted) continue;
      ++taken;
      ListedName listed{std::string(entry->name()), entry->version, {}, {}};
      listed.info = {entry->nbytes, entry->replicas, entry->cache, std::string(entry->info())};
      for (const NodeId node : entry->holders) {
        if (node_.view.Has(node)) listed.holders.push_back(node);
      }
      names.push_back(std::move(listed));
    }
  }
  std::sort(names.begin(), names.end(), [](const ListedName& a, const ListedName& b) { return a.name < b.name; });
  if (names.size() > limit) names.resize(limit);
  return names;
}

DirectoryStats DirectoryNode::Stats() const {
  DirectoryStats stats;
  for (Partition p = 0; p < partitions_.count(); ++p) {
    const PartitionState& state = partitions_[p];
    if (!state.active) {
      stats.backup_complete += state.complete && node_.assignment.Backup(p) == node_.config.self;
      continue;
    }
    ++stats.home_active;
    stats.incomplete_history += state.floor.lost_before != 0;
    stats.entries += state.table.size() - state.table.tombstones();
    stats.tombstones += state.table.tombstones();
    stats.lost += state.lost;
    stats.under_replicated += state.under_replicated;
  }
  node_.records->ForEach([&](const HeldRecord& record) {
    stats.quarantined_records += record.state == RecordState::kQuarantined;
  });
  stats.home_moving = takeover_.open_count();
  stats.unsettled_records = holder_.unsettled_count();
  stats.open_operations = operations_.open_count();
  stats.open_requests = proposer_.open_count();
  stats.pulls = holder_.pull_count();
  stats.transfers = transfers_.count();
  return stats;
}

DirectoryStats DirectoryNode::Counts() const {
  DirectoryStats stats;
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (!partitions_[p].active) continue;
    stats.lost += partitions_[p].lost;
    stats.under_replicated += partitions_[p].under_replicated;
  }
  return stats;
}

void DirectoryNode::ForEachEntry(const std::function<void(const Entry&)>& visit) const {
  for (Partition p = 0; p < partitions_.count(); ++p) {
    if (partitions_[p].active) partitions_[p].table.ForEach(visit);
  }
}

}  // namespace penstock::server::directory
