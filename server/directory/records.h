// What this node's catalog holds, as the directory sees it. The store implements it; the simulation has its own.
//
// The state of a record lives in the catalog (it outlives the process), so there is one place for it. A record is named by
// the operation that made it: copies of one put on several nodes have the same op.
//
// Threading:  called by DirectoryNode on its thread, in the middle of its events
// Ownership:  the records belong to the implementation; what it gives are copies
// Errors:     none: changes of records that are not there are ignored
// Limits:     Find: under a microsecond; List and ForEach may walk everything (only after losses and returns)
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/directory/ids.h"

namespace penstock::server::directory {

enum class RecordState : uint8_t {
  kPrepared,     // complete bytes, no version yet; invisible
  kLive,         // served by name while the lease lasts
  kSuperseded,   // its home is about to replace it: by name only through the home
  kUnconfirmed,  // this node was out of the cluster since it was live: by name only through the home
  kQuarantined,  // nobody can tell whether it is current: listed, not served
};

struct HeldRecord {
  std::string name;
  OpId op;
  Version version;       // {} while prepared
  Term prepared_in = 0;  // a view in which its proposer was a member: what an older view lacks says nothing about it
  RecordState state = RecordState::kPrepared;
  uint64_t nbytes = 0;
  uint8_t replicas = 1;
  bool cache = false;
  std::string info;
};

class Records {
 public:
  virtual ~Records() = default;

  virtual std::optional<HeldRecord> Find(std::string_view name, OpId op) const = 0;
  virtual void SetState(std::string_view name, OpId op, RecordState state, Version version) = 0;
  // Retires the record; views that pin it keep its bytes.
  virtual void Drop(std::string_view name, OpId op) = 0;
  // Records of a partition in the order of (name, op), whose name is above `after`; whole names, about `limit` records.
  virtual std::vector<HeldRecord> List(Partition partition, std::string_view after, size_t limit) const = 0;
  virtual void ForEach(const std::function<void(const HeldRecord&)>& visit) const = 0;
  // The Member::since under which the states were right; kept with the records (catalog header).
  virtual Term since() const = 0;
  virtual void SetSince(Term since) = 0;
};

}  // namespace penstock::server::directory
