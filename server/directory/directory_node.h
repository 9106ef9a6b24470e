// One node's part in the cluster's directory: the deterministic core of DESIGN.md section 5; README.md here is the protocol.
//
// It takes events (a message, a view, an answer of etcd, the time, a local request) and acts through Environment and Records.
// It has no clock, no thread, no socket: the simulation in tests/unit/server/directory runs this very code.
//
//   DirectoryNode node(config, environment, records);
//   node.OnView(now, view);  node.OnLease(now, lease, serve_until);      // membership
//   OpId op = node.NextOp();  /* record prepared under op */  node.Put(now, op, {name, conditions, info});
//   node.Tick(now);                                                      // every 10 ms or so: it asks again what is open
//
// Threading:  one thread at a time (the caller's lock or event loop); it never waits
// Ownership:  environment and records must outlive it and must not call back into it in the middle of an event
// Errors:     Environment::FinishOperation and FinishLookup tell how local requests ended; peers' messages never fail it
// Limits:     an entry costs about 150 bytes, its name and info; an event costs microseconds, a view a pass over all
//             partitions and a return of this node a pass over its records
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/directory/holder.h"
#include "server/directory/home_takeover.h"
#include "server/directory/name_operation.h"
#include "server/directory/node_state.h"
#include "server/directory/partition.h"
#include "server/directory/placement.h"
#include "server/directory/proposer.h"
#include "server/directory/rebalance.h"
#include "server/directory/repair.h"
#include "server/directory/transfers.h"

namespace penstock::server::directory {

struct DirectoryStats {
  size_t home_active = 0;      // partitions that this node serves
  size_t home_moving = 0;      // that it is taking over
  size_t backup_complete = 0;  // that it has a complete copy of, without being home
  size_t incomplete_history = 0;
  size_t entries = 0, tombstones = 0, lost = 0, under_replicated = 0;  // of active partitions
  size_t unsettled_records = 0, quarantined_records = 0;
  size_t open_operations = 0;  // as home
  size_t open_requests = 0;    // of local clients
  size_t pulls = 0;
  size_t transfers = 0;
};

struct ListedName {
  std::string name;
  Version version;
  PutInfo info;
  std::vector<NodeId> holders;  // empty: lost
};

class DirectoryNode {
 public:
  // `tables`: null if nothing outlives the process; else it must outlive this, as the records must.
  DirectoryNode(const Config& config, Environment& environment, Records& records, Tables* tables = nullptr);

  // ---- the world ----
  void OnView(Time now, const View& view);
  // `lease` lasts until `serve_until` at least: when its last good renewal was *sent*, plus TTL, minus a margin. It counts only
  // when it is the one that the view names: under a lease that the view does not know yet, this node may have been expelled
  // and taken back in between.
  void OnLease(Time now, uint64_t lease, Time serve_until);
  void OnMessage(Time now, NodeId from, Message message);
  void OnActivations(Time now, Term view, const std::vector<Activation>& by_partition);
  void OnActivated(Time now, Term view, bool ok, bool retry);
  void OnFetched(Time now, const std::string& name, OpId op, bool ok);
  // This node's own, about once a second: all members are told.
  void TellLoad(Time now, const NodeLoad& load);
  void Tick(Time now);

  // ---- local requests ----
  // For the prepared record; must end with Put, Delete or Abandon (the record came to nothing).
  OpId NextOp() { return proposer_.NextOp(); }
  void Abandon(OpId op) { proposer_.Abandon(op); }
  void Put(Time now, OpId op, PutRequest request);
  void Delete(Time now, OpId op, std::string name, Conditions conditions);
  // lease: the caller wants to serve a copy for a while (lease_until of FinishLookup, by this node's clock).
  void Lookup(Time now, uint64_t ticket, const std::vector<std::string>& names, bool lease);
  void Evict(Time now, std::string_view name, OpId op);
  // This node's copy has the wrong bytes: it goes if another node has one, which repair then copies.
  void LeaveDamaged(Time now, std::string_view name, OpId op);
  // `to` gets a copy, and unless `copy` one of the others lets go of its own: FinishMove.
  void MoveTensor(Time now, uint64_t ticket, std::string name, NodeId to, bool copy);

  // ---- answers at once ----
  // A live record of this node may be served by name at this moment.
  bool MayServe(Time now) const;
  Time serve_until() const { return node_.InView() ? node_.serve_until : 0; }
  // Names above `after` that begin with `prefix`, of the partitions that this node is home of in its view; at most `limit`.
  // nullopt: some of them are not active here yet; ask again.
  std::optional<std::vector<ListedName>> List(Time now, std::string_view prefix, std::string_view after,
                                              size_t limit) const;
  const View& view() const { return node_.view; }
  const Assignment& assignment() const { return node_.assignment; }
  DirectoryStats Stats() const;
  // Of Stats() only lost and under_replicated: some microseconds.
  DirectoryStats Counts() const;
  // For checks: the entries that this node serves as home.
  void ForEachEntry(const std::function<void(const Entry&)>& visit) const;

 private:
  void Deliver(NodeId from, Message message);
  void DeliverToSelf();

  NodeState node_;
  Placement placement_;
  Partitions partitions_;
  NameOperations operations_;
  HomeTakeover takeover_;
  Repair repair_;
  Transfers transfers_;
  Rebalance rebalance_;
  Proposer proposer_;
  Holder holder_;
};

}  // namespace penstock::server::directory
