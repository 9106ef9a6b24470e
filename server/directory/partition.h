// The partitions that this node keeps entries of: as active home, as backup, or from before.
//
// Also the answers that a home or backup gives to whoever takes a partition over.
//
// Threading:  one thread
// Ownership:  owned by DirectoryNode
// Errors:     none: a message that the state does not fit is not answered
// Limits:     about 300 bytes a partition and what entry.h says; a partition that is pushed here is there twice meanwhile
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/directory/entry.h"
#include "server/directory/node_state.h"

namespace penstock::server::directory {

struct PartitionState {
  EntryTable table;
  HistoryFloor floor;
  // `table` is all that was committed until activation `term`, if that happened, else until activation `base`.
  bool complete = false;
  Term term = 0;
  Term base = 0;

  bool active = false;  // this node is its home, and may answer reads
  bool frozen = false;  // it is being moved to another backup: no changes
  NodeId backup = 0;
  uint64_t backup_session = 0;
  uint64_t last_change = 0;
  Time quiet_until = 0;  // before this, cached copies may live on leases of an earlier home: no changes
  Time read_from = 0;    // nor answers, when history was lost: what the copies show may be gone

  // A push in progress (this node becomes backup).
  struct Staging {
    Term view = 0;
    uint32_t next_chunk = 0;
    EntryTable table;
  };
  std::unique_ptr<Staging> staging;

  // Background work of the home (repair.h).
  bool scan_needed = false;
  bool scanned = false;  // once, since it is served, or the view changed
  std::string scan_after;
  size_t lost = 0, under_replicated = 0;            // by the last full scan
  size_t lost_now = 0, under_replicated_now = 0;    // by the scan that is going on
  Stamp collect_upto;
  Time collect_at = 0;

  // For whoever takes the partition over, or its backup.
  HistoryFloor FloorAt(Time now) const {
    HistoryFloor told = floor;
    if (read_from != 0 && now >= read_from) told.loss_is_recent = false;
    return told;
  }
  bool HasHistory(Term activation) const {
    return complete && activation != 0 && (term == activation || base == activation);
  }
};

class Partitions {
 public:
  // `give_up(p)`: this node was active home of p and is not any more.
  Partitions(NodeState& node, std::function<void(Partition)> give_up);

  PartitionState& operator[](Partition p) { return states_[p]; }
  const PartitionState& operator[](Partition p) const { return states_[p]; }
  Partition count() const { return static_cast<Partition>(states_.size()); }

  // May this node answer reads, or decide about changes, as home?
  bool CanRead(Partition p) const;
  bool CanDecide(Partition p) const;
  Stamp NextStamp(Partition p) { return {states_[p].term, ++states_[p].last_change}; }

  // Changes of a table, which the next process of this node will know (tables.h).
  bool Put(Partition p, Entry entry);
  void CollectUpTo(Partition p, Stamp upto);  // tombstones
  void SaveHeader(Partition p);
  void SaveAll(Partition p);  // after the table was made anew
  void SaveSome();            // as far as Tables::Renew asks for it
  void Forget(Partition p);   // its history

  // Another home takes p over under `view`: from now on nothing older counts here.
  void PromiseToOther(Partition p, Term view);
  void StopServing(Partition p);

  void OnReplicate(NodeId from, Replicate message);
  void OnCollect(NodeId from, const Collect& message);
  void OnHandoverAsk(NodeId from, const HandoverAsk& message);
  void OnPush(NodeId from, Push message);
  // Entries of an older history go when a newer one is known and this node is no part of it.
  void OnActivated(const Activated& message);

 private:
  void Load();
  size_t AnswerHandover(NodeId from, Term view, const HandoverItem& item, const std::string& after, size_t budget);

  NodeState& node_;
  std::function<void(Partition)> give_up_;
  std::vector<PartitionState> states_;
};

}  // namespace penstock::server::directory
