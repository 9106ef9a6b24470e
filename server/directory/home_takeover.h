// This node becomes the home of partitions: gathers what was committed, gives it to the backup, activates, serves.
//
//   read the last activation (term T*, home*, backup*) -> gather from home* and backup*, which promise this view
//     -> (nobody has the history: all members announce what they hold) -> push to the new backup -> activate in etcd
//
// A new view begins all this anew for the partitions that are not right yet.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     none: what is not answered is asked again, until a view without the silent node comes
// Limits:     Config::moves_at_once partitions at a time; one more copy of the entries of those
#pragma once

#include <map>
#include <string>
#include <vector>

#include "server/directory/name_operation.h"
#include "server/directory/node_state.h"
#include "server/directory/partition.h"

namespace penstock::server::directory {

class HomeTakeover {
 public:
  HomeTakeover(NodeState& node, Partitions& partitions, NameOperations& operations)
      : node_(node), partitions_(partitions), operations_(operations) {}

  void OnView();
  void OnActivations(Term view, const std::vector<Activation>& activations);
  void OnHandoverPart(NodeId from, HandoverPart message);
  void OnAnnouncePart(NodeId from, AnnouncePart message);
  void OnRefused(const Refused& message);
  void OnPushAck(NodeId from, const PushAck& message);
  void OnActivated(Term view, bool ok, bool retry);
  void Tick();

  size_t open_count() const { return moves_.size(); }

 private:
  enum class Phase { kReading, kWaiting, kGathering, kAnnouncing, kPushing, kReady, kActivating };
  struct Source {
    NodeId node = 0;
    std::string after;
    bool done = false;
  };
  struct Move {
    Phase phase = Phase::kReading;
    Activation last;
    bool keeps_serving = false;  // this node is home* and has the history
    bool found_history = false;
    std::vector<Source> sources;
    EntryTable gathered;
    HistoryFloor floor;
    std::map<std::string, std::vector<std::pair<NodeId, HeldRecord>>> announced;
    uint32_t chunk = 0;
    std::string pushed_to;  // the last name of the chunk under way
    std::string pushed_from;
    bool last_chunk = false;
    Time next_send = 0;
  };

  bool IsRight(Partition p) const;
  // A home of a newer view was here before the news of that view: this move must not touch the partition any more.
  bool Overtaken(Partition p) const { return node_.promised[p] > node_.view.term; }
  void StartWaiting();
  void Begin(Partition p, Move& move);
  void AfterGathering(Partition p, Move& move);
  void BeginAnnouncing(Move& move);
  void Rebuild(Partition p, Move& move);
  Entry RebuiltEntry(Partition p, const std::string& name,
                     const std::vector<std::pair<NodeId, HeldRecord>>& records) const;
  void TakeGathered(Partition p, Move& move);
  void BeginPushing(Partition p, Move& move);
  void SendPush(Partition p, Move& move);
  void SendAsks(NodeId to);
  void SendAllAsks();
  void ActivateReady();
  void Serve(Partition p, Move& move);
  Source* Expected(Move& move, NodeId from, const std::string& after);

  NodeState& node_;
  Partitions& partitions_;
  NameOperations& operations_;
  std::map<Partition, Move> moves_;
  std::vector<Partition> activating_;
  Time activate_again_ = 0;
  Time next_ask_ = 0;
  Time read_again_ = 0;
};

}  // namespace penstock::server::directory
