// What a node does with its own records when homes say so, and how it settles those whose state it does not know.
//
// A record that is prepared (its put's end is not known here), superseded (and neither replaced nor restored) or unconfirmed
// (this node was out of the cluster) is *unsettled*: the node asks the name's home until it gets a verdict.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode; the records are the store's
// Errors:     none
// Limits:     about 150 bytes an unsettled record; Config::rebalance_at_once copies that are made for evenness only; Config::work_per_tick questions a tick
#pragma once

#include <map>
#include <string>
#include <utility>

#include "absl/container/btree_map.h"
#include "server/directory/node_state.h"
#include "server/directory/partition.h"
#include "server/directory/proposer.h"

namespace penstock::server::directory {

class Holder {
 public:
  // Reads what an earlier process left in the catalog.
  Holder(NodeState& node, Partitions& partitions, Proposer& proposer);

  // The view says that this node was away: nothing that it holds is served by name before a home has confirmed it.
  void NoteReturn(Term since);
  // Ask the home to let go of a live record; meanwhile it is served only through the home. It goes when enough other nodes
  // hold the tensor.
  enum class LeaveWhy : uint8_t {
    kNotNeeded,
    kEvicted,  // a cache tensor goes in any case, its name with the last copy
    kDamaged,  // its bytes are not right: it goes if anybody else has it at all
  };
  void Leave(std::string_view name, OpId op, LeaveWhy why);

  void OnSupersede(NodeId from, const Supersede& message);
  void OnRecall(NodeId from, const Recall& message);
  void OnProposeAnswer(NodeId from, const ProposeAnswer& message);
  void OnCommitted(NodeId from, const Committed& message);
  void OnDrop(const Drop& message);
  void OnDiscard(const Discard& message);
  void OnVerdicts(NodeId from, const Verdicts& message);
  void OnOpQueryAnswer(const OpQueryAnswer& message);
  void OnAnnounceAsk(NodeId from, const AnnounceAsk& message);
  void OnPull(NodeId from, const Pull& message);
  void OnLetGo(const LetGo& message) { Leave(message.name, message.op, LeaveWhy::kNotNeeded); }
  void OnFetched(const std::string& name, OpId op, bool ok);
  void Tick();

  size_t unsettled_count() const { return unsettled_.size(); }
  size_t pull_count() const { return pulls_.size(); }

 private:
  using Key = std::pair<std::string, OpId>;
  struct Unsettled {
    Time next = 0;
    uint64_t question = 0;  // the one whose answer counts; 0: none
    bool proposer_is_done = false;
    bool leaving = false;
    bool evicting = false;
    bool damaged = false;
    Reason reason = 0;  // why it was fetched
  };
  struct PullUnderWay {
    std::string name;
    NodeId asker = 0;
    bool for_put = false;
    Reason reason = 0;
    Time tell_at = 0;  // the asker that it is still going on
  };

  void Unsettle(const std::string& name, OpId op, Time next);
  // False: settled by itself.
  bool Ask(const Key& key, Unsettled& unsettled, std::map<NodeId, Resolve>& questions);
  bool AskProposer(const Key& key, Unsettled& unsettled);
  void Apply(const Verdict& verdict);
  void TellOfPulls();
  size_t Announce(NodeId to, Term view, Partition p, const std::string& after, size_t budget);
  void LeaveWhenDraining();

  NodeState& node_;
  Partitions& partitions_;
  Proposer& proposer_;
  absl::btree_map<Key, Unsettled> unsettled_;
  Key cursor_;
  uint64_t last_question_ = 0;
  uint64_t last_sequence_ = 0;
  std::map<OpId, PullUnderWay> pulls_;
  Partition drain_cursor_ = 0;
};

}  // namespace penstock::server::directory
