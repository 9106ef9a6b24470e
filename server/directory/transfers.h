// Tensors that change their place: `to` gets a copy, then one of the others lets go of it. Asked for by somebody (Move), or by
// rebalance.h.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     MoveOutcome, to whoever asked; what a new home takes over is given up, and asked for again
// Limits:     about 400 bytes a tensor that is on its way; one at a time for a name; the last 256 answers are remembered, for those
//             who ask again
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "server/directory/name_operation.h"
#include "server/directory/node_state.h"
#include "server/directory/partition.h"
#include "server/directory/placement.h"

namespace penstock::server::directory {

class Transfers {
 public:
  Transfers(NodeState& node, Partitions& partitions, NameOperations& operations, Placement& placement)
      : node_(node), partitions_(partitions), operations_(operations), placement_(placement) {}

  void OnMove(NodeId from, const Move& message);
  void OnPullDone(NodeId from, const PullDone& message);
  // For evenness: from `fuller` to `emptier`. False: the name is on its way somewhere.
  bool Even(const Entry& entry, NodeId fuller, NodeId emptier);
  void Tick();

  size_t count() const { return transfers_.size(); }
  size_t evening_count() const;

 private:
  struct Asker {
    NodeId node = 0;
    uint64_t request = 0;
  };
  struct Transfer {
    Partition partition = 0;
    OpId op;
    NodeId to = 0;
    NodeId leaver = 0;  // 0: not chosen yet
    bool copy = false;
    bool evens = false;
    bool had_it = false;  // `to`, at first
    bool failed = false;
    Time until = 0;
    Time next_send = 0;
    std::vector<Asker> askers;
  };
  struct Finished {
    std::string name;
    NodeId to = 0;
    bool copy = false;
    OpId op;
    std::vector<Asker> askers;
    MoveAnswer answer;
  };

  // True: it is over, as `answer` says.
  bool Advance(const std::string& name, Transfer& transfer, MoveAnswer* answer);
  bool AdvanceLeaving(const std::string& name, Transfer& transfer, const Entry& entry, MoveAnswer* answer);
  MoveOutcome Refusal(const Move& message, const Entry* entry) const;
  NodeId ChooseLeaver(const Transfer& transfer, const Entry& entry) const;
  void SendPull(const std::string& name, Transfer& transfer, const Entry& entry);
  void Begin(const std::string& name, const Entry& entry, Transfer transfer);
  void Finish(const std::string& name, const Transfer& transfer, const MoveAnswer& answer);

  NodeState& node_;
  Partitions& partitions_;
  NameOperations& operations_;
  Placement& placement_;
  absl::btree_map<std::string, Transfer> transfers_;  // in the order of names: as NameOperations
  std::deque<Finished> finished_;
};

}  // namespace penstock::server::directory
