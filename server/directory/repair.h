// The home's background work on its entries: lost holders out, missing copies made, old tombstones collected.
//
// Most endangered first: what has one copy left comes before what has two, and so on, over all partitions; last what has enough, but
// on nodes that drain. After a change of the view the first pass over all entries says what there is of each.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     none: what could not be copied is found again
// Limits:     Config::work_per_tick entries a tick; Config::pulls_at_once copies under way; kMostWaiting names known to wait, of each
//             degree of danger
#pragma once

#include <array>
#include <string>

#include "absl/container/btree_set.h"
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
  // Nothing that this node is home of lacks a copy, as far as it knows.
  bool Rests() const;

 private:
  static constexpr size_t kDegrees = 4;  // one copy left, two, more; enough, but on nodes that drain
  static constexpr size_t kMostWaiting = 1024;

  struct PullUnderWay {
    NodeId target = 0;
    OpId op;
    Time until = 0;
  };
  // What an entry lacks.
  struct Lack {
    bool any = false;
    bool lost = false;
    bool has_lost_holders = false;
    size_t degree = 0;
  };

  bool AllScanned() const;
  Lack LackOf(const Entry& entry) const;
  void ScanSome();
  // Returns how much of the budget is left.
  size_t Scan(Partition p, size_t budget);
  void FinishPulls();
  void StartPulls();
  void StartPull(const std::string& name);
  void CollectTombstones(Partition p);
  void FinishCollecting(Partition p);

  NodeState& node_;
  Partitions& partitions_;
  NameOperations& operations_;
  Placement& placement_;
  Partition cursor_ = 0;
  size_t steady_count_ = 0;  // of the view
  Time scan_again_ = 0;
  std::array<absl::btree_set<std::string>, kDegrees> waiting_;
  NameMap<PullUnderWay> pulls_;  // one at a time for a name
};

}  // namespace penstock::server::directory
