// Which nodes shall hold a copy: by free space, load, distance to failures and trust; each choice says why. And which two are the most unlike.
//
// Threading:  one thread
// Ownership:  values
// Errors:     fewer choices than wanted, when there are not enough nodes that could
// Limits:     one pass over the members per choice; loads are as old as their reports
#pragma once

#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "server/directory/ids.h"
#include "server/directory/reason.h"
#include "server/directory/view.h"

namespace penstock::server::directory {

struct NodeLoad {
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
  double busy = 0;  // 0 idle .. 1: how much of its links it uses
};

struct Choice {
  NodeId node = 0;
  ReasonParts reason;  // without its kind
};

// Two nodes of which one has much more than the other.
struct Uneven {
  NodeId fuller = 0, emptier = 0;
  uint64_t bytes = 0;  // that would make them even
};

class Placement {
 public:
  static constexpr Time kRampUp = 60 * kSecond;      // a new node gets its share only slowly
  static constexpr Time kDistrust = 10 * kSecond;    // after a failed transfer; doubles with each further one
  static constexpr Time kLongestDistrust = 600 * kSecond;

  void Report(NodeId node, const NodeLoad& load, Time now);
  void Suspect(NodeId node, Time now);
  void Trust(NodeId node);  // a transfer succeeded
  void OnView(const View& view, Time now);

  // At most `count` members that are not in `exclude` and do not drain: other zones and hosts than those of `exclude`
  // first. Nodes that never reported count as empty.
  std::vector<Choice> Choose(const View& view, const std::vector<NodeId>& exclude, uint64_t nbytes, size_t count,
                             Time now) const;
  // Why this one, if it is to have a copy beside `others`.
  Reason Describe(const View& view, NodeId node, const std::vector<NodeId>& others, uint64_t nbytes, ReasonKind kind, Time now) const;
  bool IsFull(NodeId node, uint64_t nbytes) const;  // as far as it has reported
  bool IsNew(NodeId node, Time now) const;
  double Fill(NodeId node) const;                   // 0 .. 1
  // Of the steady members that have reported: the fullest and the emptiest, if they differ by more than `difference` of their
  // space and more than `least` bytes.
  std::optional<Uneven> MostUneven(const View& view, double difference, uint64_t least) const;
  // Until its next report a node is taken to have so much more, or less.
  void Assume(NodeId node, int64_t nbytes);

 private:
  struct Known {
    NodeLoad load;
    bool reported = false;
    Time joined = 0;
    Time suspect_until = 0;
    int failures = 0;
  };
  struct Score {
    double points = 0;
    ReasonParts reason;
  };
  Score Rate(const Member& member, const View& view, const std::vector<NodeId>& taken, uint64_t nbytes, Time now) const;

  absl::flat_hash_map<NodeId, Known> known_;
};

}  // namespace penstock::server::directory
