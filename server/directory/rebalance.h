// Rebalance: moves a part of what the fullest node has to the emptiest one (a node that has just joined, say), slowly, and only while
// no tensor lacks a copy.
//
// Every home does so with the entries that it is home of. It takes its share of the difference between two reports of loads, so that
// all homes together do not move too much; a new node gets one tensor at a time of each home, others Config::rebalance_at_once.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     none: what could not be moved stays
// Limits:     kLooksPerTick entries a tick, while there is a difference
#pragma once

#include <string>

#include "server/directory/node_state.h"
#include "server/directory/partition.h"
#include "server/directory/placement.h"
#include "server/directory/repair.h"
#include "server/directory/transfers.h"

namespace penstock::server::directory {

class Rebalance {
 public:
  Rebalance(NodeState& node, Partitions& partitions, Repair& repair, Transfers& transfers, Placement& placement)
      : node_(node), partitions_(partitions), repair_(repair), transfers_(transfers), placement_(placement) {}

  void OnView() { again_ = node_.now + node_.config.rebalance_after; }
  void Tick();

 private:
  static constexpr size_t kLooksPerTick = 256;

  size_t AtOnce(const Uneven& uneven) const;
  bool Fits(const Entry& entry, const Uneven& uneven) const;
  // The next entries; true: all were looked at, and none fits.
  bool MoveSome(const Uneven& uneven);

  NodeState& node_;
  Partitions& partitions_;
  Repair& repair_;
  Transfers& transfers_;
  Placement& placement_;
  Time again_ = 0;
  Partition cursor_ = 0;
  std::string after_;
  size_t fruitless_ = 0;  // partitions in a row in which nothing fitted
  Time window_end_ = 0;   // about when the loads are known anew
  uint64_t window_left_ = 0;  // bytes that this home may still begin to move until then
};

}  // namespace penstock::server::directory
