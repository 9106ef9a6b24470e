#include "server/directory/partition.h"

#include <algorithm>
#include <utility>

namespace penstock::server::directory {

Partitions::Partitions(NodeState& node, std::function<void(Partition)> give_up)
    : node_(node), give_up_(std::move(give_up)), states_(node.config.partition_count) {
  if (node.tables != nullptr) Load();
}

// What an earlier process of this memory had. It is active nowhere: the view that names this process makes its homes activate anew.
void Partitions::Load() {
  node_.tables->Load({.promise = [this](Partition p, Term promised) {
                        if (p < count()) node_.promised[p] = promised;
                      },
                      .complete = [this](Partition p, const TableHeader& header) {
                        if (p >= count()) return;
                        PartitionState& state = states_[p];
                        state.floor = header.floor;
                        state.term = header.term;
                        state.base = header.base;
                        state.complete = true;
                      },
                      .entry = [this](Partition p, Entry entry) {
                        if (p < count()) states_[p].table.Put(std::move(entry));
                      }});
}

bool Partitions::Put(Partition p, Entry entry) {
  EntryTable& table = states_[p].table;
  const std::string name(entry.name());
  if (!table.Put(std::move(entry))) return false;
  if (node_.tables != nullptr) node_.tables->Put(p, *table.Find(name));
  return true;
}

// The floor is saved first: between the two there are tombstones below it, which do no harm.
void Partitions::CollectUpTo(Partition p, Stamp upto) {
  PartitionState& state = states_[p];
  state.table.ForEach([&](const Entry& entry) {
    if (entry.deleted && entry.stamp <= upto) state.floor.number = std::max(state.floor.number, entry.version.number);
  });
  state.floor.stamp = std::max(state.floor.stamp, upto);
  SaveHeader(p);
  state.table.Collect(upto, [&](std::string_view name) {
    if (node_.tables != nullptr) node_.tables->Erase(p, name);
  });
}

void Partitions::SaveHeader(Partition p) {
  const PartitionState& state = states_[p];
  if (node_.tables != nullptr && state.complete) node_.tables->SetComplete(p, {state.FloorAt(node_.now), state.term, state.base});
}

void Partitions::SaveAll(Partition p) {
  if (node_.tables == nullptr) return;
  node_.tables->Clear(p);
  states_[p].table.ForEach([&](const Entry& entry) { node_.tables->Put(p, entry); });
  SaveHeader(p);
}

void Partitions::SaveSome() {
  node_.tables->Renew([this](Partition p, Tables* to) {
    if (p >= count()) return;
    const PartitionState& state = states_[p];
    if (node_.promised[p] != 0) to->SetPromise(p, node_.promised[p]);
    if (!state.complete) return;
    state.table.ForEach([&](const Entry& entry) { to->Put(p, entry); });
    to->SetComplete(p, {state.FloorAt(node_.now), state.term, state.base});
  });
}

void Partitions::Forget(Partition p) {
  states_[p] = PartitionState();
  if (node_.tables != nullptr) node_.tables->Clear(p);
}

bool Partitions::CanRead(Partition p) const {
  return states_[p].active && node_.now >= states_[p].read_from && (node_.LeaseValid() || !Keeps(Rule::kLeaseAtHome));
}

bool Partitions::CanDecide(Partition p) const { return CanRead(p) && !states_[p].frozen; }

void Partitions::StopServing(Partition p) {
  PartitionState& state = states_[p];
  if (!state.active) return;
  state.active = false;
  state.frozen = false;
  give_up_(p);
}

void Partitions::PromiseToOther(Partition p, Term view) {
  node_.Promise(p, view);
  if (Keeps(Rule::kPromise) && states_[p].term < view) StopServing(p);
}

void Partitions::OnReplicate(NodeId from, Replicate message) {
  PartitionState& state = states_[message.partition];
  if (node_.Refuses(from, message.partition, message.term)) return;
  if (!state.complete || state.active || state.term != message.term) return;
  const Stamp stamp = message.entry.stamp;
  if (stamp <= state.floor.stamp && Keeps(Rule::kTombstoneFloor)) return;
  std::string name(message.entry.name());
  Put(message.partition, std::move(message.entry));
  node_.Send(from, ReplicateAck{message.partition, message.term, stamp, std::move(name)});
}

void Partitions::OnCollect(NodeId from, const Collect& message) {
  PartitionState& state = states_[message.partition];
  if (node_.Refuses(from, message.partition, message.term)) return;
  if (!state.complete || state.active || state.term != message.term) return;
  CollectUpTo(message.partition, message.upto);
  node_.Send(from, CollectAck{message.partition, message.term, message.upto});
}

void Partitions::OnHandoverAsk(NodeId from, const HandoverAsk& message) {
  if (message.view < node_.view.term) return;  // etcd refuses that activation: no promise is needed
  for (const HandoverItem& item : message.items) PromiseToOther(item.partition, message.view);
  size_t budget = node_.config.entries_per_message;
  bool first = true;
  for (const HandoverItem& item : message.items) {
    if (budget == 0) break;
    if (node_.promised[item.partition] <= message.view) {
      budget = AnswerHandover(from, message.view, item, first ? message.after : std::string(), budget);
    }
    first = false;
  }
}

size_t Partitions::AnswerHandover(NodeId from, Term view, const HandoverItem& item, const std::string& after,
                                  size_t budget) {
  const PartitionState& state = states_[item.partition];
  HandoverPart part{.view = view, .partition = item.partition, .after = after};
  part.complete = state.HasHistory(item.base);
  part.last = true;
  if (part.complete) {
    part.floor = state.FloorAt(node_.now);
    const Entry* entry = state.table.Next(after);
    for (; entry && budget > 0; --budget, entry = state.table.Next(entry->name())) {
      part.entries.push_back(*entry);
    }
    part.last = entry == nullptr;
  }
  part.cut = budget == 0;
  node_.Send(from, std::move(part));
  return budget;
}

void Partitions::OnPush(NodeId from, Push message) {
  const Partition p = message.partition;
  PartitionState& state = states_[p];
  if (message.view < node_.promised[p] || message.view < node_.view.term) return;
  PromiseToOther(p, message.view);
  if (state.active) return;
  auto acknowledge = [&] { node_.Send(from, PushAck{message.view, p, message.chunk}); };
  if (state.complete && state.term == message.view) return acknowledge();
  if (!state.staging || state.staging->view != message.view) {
    state.staging = std::make_unique<PartitionState::Staging>();
    state.staging->view = message.view;
  }
  PartitionState::Staging& staging = *state.staging;
  if (message.chunk > staging.next_chunk) return;
  if (message.chunk == staging.next_chunk) {
    ++staging.next_chunk;
    for (Entry& entry : message.entries) staging.table.Put(std::move(entry));
    if (message.last) {
      state.table = std::move(staging.table);
      state.floor = message.floor;
      state.read_from = 0;
      state.complete = true;
      state.term = message.view;
      state.base = message.base;
      state.staging.reset();
      SaveAll(p);
    }
  }
  acknowledge();
}

void Partitions::OnActivated(const Activated& message) {
  for (const Partition p : message.partitions) {
    if (p >= count() || message.term < node_.known_term[p]) continue;
    node_.known_term[p] = message.term;
    PartitionState& state = states_[p];
    const bool part_of_it = state.complete && state.term >= message.term;
    if (part_of_it || state.active || state.staging) continue;
    Forget(p);
  }
}

}  // namespace penstock::server::directory
