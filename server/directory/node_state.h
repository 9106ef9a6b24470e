// What the parts of a DirectoryNode share: who and when it is, its view, its promises, its way to send.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode; environment and records outlive it
// Errors:     none
// Limits:     16 bytes a partition
#pragma once

#include <deque>
#include <utility>
#include <vector>

#include "server/directory/directory_messages.h"
#include "server/directory/environment.h"
#include "server/directory/records.h"
#include "server/directory/rules.h"
#include "server/directory/tables.h"
#include "server/directory/view.h"

namespace penstock::server::directory {

struct Config {
  NodeId self = 0;
  uint64_t session = 0;  // random; new for every start of the process
  uint32_t partition_count = 4096;
  size_t entries_per_message = 512;
  size_t moves_at_once = 256;  // partitions that are being moved to this home at a time
  size_t pulls_at_once = 16;   // repairs that this home has under way
  size_t work_per_tick = 2048;  // entries or records that a tick looks at, at most
  Time retry = 50 * kMillisecond;
  Time settle_after = 300 * kMillisecond;  // when a holder asks about a record in an unfinished state
  Time name_lease = kSecond;               // how long a copy may be served after a lookup
  Time name_lease_margin = 20 * kMillisecond;
  Time tombstone_age = 60 * kSecond;
  Time pull_patience = 10 * kSecond;
  // Moving tensors from full nodes to empty ones (rebalance.h).
  bool rebalance = true;
  double rebalance_difference = 0.10;              // of their fill, from which on
  uint64_t rebalance_bytes = uint64_t{64} << 20;   // and of what they have more
  Time rebalance_after = 10 * kSecond;             // the last change of the view
  size_t rebalance_at_once = 4;
};

struct NodeState {
  Config config;
  Environment* environment = nullptr;
  Records* records = nullptr;
  Tables* tables = nullptr;  // null: nothing outlives the process

  Time now = 0;
  Time serve_until = 0;  // of this node's own lease
  View view;
  Assignment assignment;
  // Per partition: who has promised term T listens to no home of a smaller term.
  std::vector<Term> promised;
  // Per partition: under which its home is active, as far as this node has heard; 0 = unknown.
  std::vector<Term> known_term;
  std::deque<std::pair<NodeId, Message>> to_self;

  // This very process is a member.
  bool InView() const {
    const Member* member = view.Find(config.self);
    return member && member->session == config.session;
  }
  bool LeaseValid() const { return now < serve_until && InView(); }
  Partition PartitionFor(std::string_view name) const { return PartitionOf(name, config.partition_count); }
  NodeId HomeOf(std::string_view name) const { return assignment.Home(PartitionFor(name)); }
  void Promise(Partition p, Term term) {
    if (promised[p] >= term) return;
    promised[p] = term;
    if (tables != nullptr) tables->SetPromise(p, term);
  }
  // True: that home's message does not count any more; it is told.
  bool Refuses(NodeId home, Partition p, Term term) {
    if (!Keeps(Rule::kPromise) || term >= promised[p]) return false;
    Send(home, Refused{p, promised[p]});
    return true;
  }
  void Send(NodeId to, Message message) {
    if (to == config.self) {
      to_self.emplace_back(to, std::move(message));
    } else if (to != 0) {
      environment->Send(to, std::move(message));
    }
  }
};

}  // namespace penstock::server::directory
