// A cluster view, and who is home and backup of which partition in it.
//
// Membership (etcd) makes views; the directory is told them by DirectoryNode::OnView.
//
// Threading:  immutable after construction
// Ownership:  values
// Errors:     none
// Limits:     an Assignment costs partitions x members hashes (4096 x 10: about 0.3 ms) and 16 bytes a partition
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/directory/ids.h"

namespace penstock::server::directory {

struct Member {
  NodeId id = 0;
  uint64_t session = 0;  // of its present process; a restart changes it (and so the view)
  uint64_t lease = 0;    // the etcd lease that its key is under
  Term since = 0;        // the view since which no view was without it; a restart within the lease keeps it
  bool draining = false;
  std::string host;
  std::string zone;
};

struct View {
  Term term = 0;
  std::vector<Member> members;
  // Expelled nodes whose memory may still be there. A node that replaces one on the same host takes it out.
  std::vector<NodeId> absent;

  const Member* Find(NodeId id) const;
  const Member* FindSession(uint64_t session) const;
  bool Has(NodeId id) const { return Find(id) != nullptr; }
  // Members that shall keep replicas: those that are not draining, or all when everybody drains.
  bool IsSteady(NodeId id) const;
  size_t CountSteady() const;

 private:
  size_t CountUp() const;
};

// The partition of a name; the same in every process and version.
Partition PartitionOf(std::string_view name, uint32_t partition_count);

// Rendezvous hashing: a view that gains or loses one member moves only that member's partitions.
class Assignment {
 public:
  Assignment() = default;
  Assignment(const View& view, uint32_t partition_count);

  NodeId Home(Partition partition) const { return homes_.empty() ? 0 : homes_[partition]; }
  NodeId Backup(Partition partition) const { return backups_.empty() ? 0 : backups_[partition]; }

 private:
  std::vector<NodeId> homes_;
  std::vector<NodeId> backups_;
};

}  // namespace penstock::server::directory
