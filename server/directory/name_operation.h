// Changes of names at their home: one at a time per name, in order; different names do not wait for each other.
//
// A change is judged (conditions, is it done already), recalls what serves the old version (puts and deletes), goes to the
// backup, and is then committed and answered. What cannot go on (no answer, no lease, moving partition) waits; what is
// still open when the partition gets another home is given up without an answer other than "elsewhere".
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     answers go to the proposers as Outcome
// Limits:     about 1 KiB per name that is being changed; nothing for others
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "server/directory/finished_operations.h"
#include "server/directory/name_leases.h"
#include "server/directory/node_state.h"
#include "server/directory/partition.h"

namespace penstock::server::directory {

class NameOperations {
 public:
  NameOperations(NodeState& node, Partitions& partitions) : node_(node), partitions_(partitions) {}

  void OnPropose(NodeId from, Propose message);
  void OnResolve(NodeId from, Resolve message);
  void OnLookup(NodeId from, const Lookup& message);
  void OnRunAck(NodeId from, const RunAck& message);
  void OnReplicateAck(NodeId from, const ReplicateAck& message);

  // Takes holders that are not members any more out of an entry (repair.h).
  void LoseHolders(Partition p, std::string_view name);

  // Enough others hold it, or it may be evicted for good, or what this node has is damaged and any other has it.
  bool MayLeave(const Entry& entry, NodeId node, bool evicting = false, bool damaged = false) const;

  // The partition is active anew here: what was begun begins again.
  void Restart(Partition p);
  // The partition has, or may have, another home.
  void GiveUp(Partition p);
  void OnView();
  void Tick();

  size_t open_count() const { return operations_.size(); }
  bool IsOpen(std::string_view name) const { return operations_.contains(name); }
  // The smallest stamp of partition p that its backup has not acknowledged yet.
  bool Replicating(Partition p, Stamp upto) const;

 private:
  enum class Phase { kIdle, kRecalling, kReplicating };
  enum class Kind { kPropose, kClaim, kLose };
  struct Request {
    Kind kind = Kind::kLose;
    NodeId from = 0;
    uint64_t session = 0;
    bool from_earlier_term = false;
    Propose propose;
    ResolveItem claim;
  };
  struct Reader {
    NodeId node = 0;
    uint64_t request = 0;
    uint32_t index = 0;
    bool lease = false;
  };
  struct Operation {
    Partition partition = 0;
    std::string name;
    std::deque<Request> queue;  // the first is the one that runs
    Phase phase = Phase::kIdle;
    uint64_t run = 0;
    Entry next;
    std::vector<NodeId> recalling;  // old holders that have not acknowledged
    bool replicated = false;
    Time next_send = 0;
    std::vector<Reader> readers;
  };

  Operation& OperationFor(Partition p, std::string_view name);
  void Advance(Operation& operation);
  // One step of the first request; false: it has to wait.
  bool Step(Operation& operation);
  void Judge(Operation& operation);
  void JudgePropose(Operation& operation, Request& request);
  void JudgeClaim(Operation& operation, Request& request);
  void JudgeLose(Operation& operation);
  // Why the proposal must not be carried out; nullopt: it may.
  std::optional<OperationResult> Refusal(const Operation& operation, const Request& request, const Entry* entry) const;
  void BeginPut(Operation& operation, const Request& request, const Entry* entry);
  void BeginChange(Operation& operation, Entry next, Phase phase);
  void SendRecalls(Operation& operation);
  void SendReplicate(Operation& operation);
  void Commit(Operation& operation);
  void AnswerPropose(const Operation& operation, const Request& request, OperationResult result);
  void AnswerClaim(const Operation& operation, const Request& request, VerdictKind kind, Version version);
  VerdictKind VerdictOfUnknown(Partition p, const ResolveItem& claim, const Entry* entry) const;
  void PopFirst(Operation& operation);
  void AnswerReaders(Operation& operation);
  LookupResult Read(Partition p, std::string_view name, const Reader& reader);
  void Answer(const Reader& reader, LookupResult result);
  void Elsewhere(NodeId to, const Propose& propose);

  NodeState& node_;
  Partitions& partitions_;
  // In the order of names: a simulation must see the same order in every run.
  absl::btree_map<std::string, std::unique_ptr<Operation>, std::less<>> operations_;
  FinishedOperations finished_;
  absl::flat_hash_map<uint64_t, uint64_t> last_resolve_;  // session -> sequence
  NameLeases leases_;
  uint64_t last_run_ = 0;
};

}  // namespace penstock::server::directory
