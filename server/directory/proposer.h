// Local puts, deletes and lookups: this node's clients' side of the protocol.
//
// A put or delete is proposed to the name's home again and again until its end is known. A put's end is known in one of
// three ways: the home's answer, a Supersede of its own version (its successor's home says what it replaces), or, after this
// node was out of the cluster, a verdict. Clients' deadlines are the node's matter: the operation goes on without them.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     Outcome of Environment::FinishOperation; LookupStatus
// Limits:     about 1 KiB an open operation or lookup
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/directory/node_state.h"
#include "server/directory/placement.h"

namespace penstock::server::directory {

struct PutRequest {
  std::string name;
  Conditions conditions;
  PutInfo info;
};

class Proposer {
 public:
  Proposer(NodeState& node, Placement& placement) : node_(node), placement_(placement) {}

  // The id of the next operation: for the prepared record, before Put. It must end with Put, Delete or Abandon.
  OpId NextOp() {
    open_.insert(++last_count_);
    return {node_.config.session, last_count_};
  }
  // Nothing was proposed under this id and nothing will be.
  void Abandon(OpId op) { open_.erase(op.count); }
  // The record of `op` is prepared here. With replicas > 1 other nodes copy it first.
  void Put(OpId op, PutRequest request);
  void Delete(OpId op, std::string name, Conditions conditions);
  void Lookup(uint64_t ticket, const std::vector<std::string>& names, bool lease);
  void MoveTensor(uint64_t ticket, std::string name, NodeId to, bool copy);

  // True: the record of the op is not known as held to its home: it is unconfirmed now, and must claim.
  bool OnProposeAnswer(NodeId from, const ProposeAnswer& message);
  void OnPullDone(NodeId from, const PullDone& message);
  void OnOpQuery(NodeId from, const OpQuery& message);
  void OnLookupAnswer(const LookupAnswer& message);
  void OnMoveAnswer(const MoveAnswer& message);
  void OnView();
  void Tick();

  // This node was away: open puts may have been overwritten behind its back. They are not proposed any more (a verdict ends
  // them); what is returned are their records. Deletes go on.
  std::vector<std::pair<std::string, OpId>> StopProposing();
  bool IsProposing(OpId op) const;
  std::string NameOf(OpId op) const;
  void LearnCommitted(OpId op, Version version, RecordState state = RecordState::kLive);
  void LearnLost(OpId op);
  // A home wants copies that were leased to this node not to be served any more.
  void RecallCopy(std::string_view name);

  size_t open_count() const { return operations_.size() + lookups_.size() + moves_.size(); }

 private:
  enum class Phase { kCopying, kProposing, kResolving };
  struct Operation {
    Phase phase = Phase::kProposing;
    Propose propose;
    std::vector<NodeId> tried;    // targets, whether or not they could
    std::vector<NodeId> copying;  // targets that have not answered
    std::map<NodeId, Reason> why;  // targets were chosen
    Time copy_until = 0;
    Time next_send = 0;
  };
  struct PendingMove {
    std::vector<uint64_t> tickets;  // who asked for the same
    Move move;
    Time next_send = 0;
  };
  struct PendingLookup {
    uint64_t ticket = 0;
    bool lease = false;
    bool recalled = false;
    std::vector<std::string> names;
    std::vector<LookupResult> results;
    size_t missing = 0;
    Time sent = 0;  // first: a lease counts from here
    Time next_send = 0;
  };

  void ContinueCopying(Operation& operation);
  void GiveUp(const Operation& operation);
  void SendPropose(Operation& operation);
  void SendLookup(uint64_t request, PendingLookup& lookup);
  void SendMove(PendingMove& move);
  void Finish(uint64_t count, Outcome outcome, Version version);

  NodeState& node_;
  Placement& placement_;
  uint64_t last_count_ = 0;
  std::set<uint64_t> open_;  // counts that are given out and not finished
  std::map<uint64_t, Operation> operations_;  // by OpId::count
  uint64_t last_request_ = 0;
  std::map<uint64_t, PendingLookup> lookups_;
  std::map<uint64_t, PendingMove> moves_;
};

}  // namespace penstock::server::directory
