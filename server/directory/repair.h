// The home's background work on its entries: lost holders out, missing copies made, old tombstones collected.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     none
// Limits:     Config::work_per_tick entries a tick; Config::pulls_at_once copies under way
#pragma once

#include <string>

#include "server/directory/name_map.h"
#include "server/directory/name_operation.h"
#include "server/directory/node_state.h"
#include "server/directory/partition.h"
#include "server/directory/placement.h"

namespace penstock::server::directory {

class Repair {
 public:
  Repair(NodeState& node, Partitions& partitions, NameOperations& operations, Placement& placement)
      : node_(node), partitions_(partitions), operations_(operations), placement_(placement) {}

  void OnView();
  void OnPullDone(NodeId from, const PullDone& message);
  void OnCollectAck(NodeId from, const CollectAck& message);
  void Tick();

  size_t pulls_under_way() const { return pulls_.size(); }

 private:
  struct PullUnderWay {
    NodeId target = 0;
    Time until = 0;
  };

  void ScanSome();
  // Returns how much of the budget is left.
  size_t Scan(Partition p, size_t budget);
  void Look(Partition p, const Entry& entry);
  void StartPull(const Entry& entry, const std::vector<NodeId>& from, size_t missing);
  void CollectTombstones(Partition p);
  void FinishCollecting(Partition p);

  NodeState& node_;
  Partitions& partitions_;
  NameOperations& operations_;
  Placement& placement_;
  Partition cursor_ = 0;
  Time scan_again_ = 0;
  NameMap<PullUnderWay> pulls_;  // one at a time for a name
};

}  // namespace penstock::server::directory
