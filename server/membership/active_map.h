// Of which partitions of the directory one node has become the home: what lies under its key in etcd (proto/cluster.proto, Active).
//
// Plain values and pure functions; activations.h keeps them in etcd.
//
// Threading:  any thread
// Ownership:  plain values
// Errors:     none: what does not parse, is of another cluster, or of partitions that there are not, counts as not there
// Limits:     16 bytes a partition; of 4096 partitions the value in etcd has some 8 KiB, 100 KiB at the very most (etcd takes 1.5 MiB)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/directory/environment.h"
#include "server/directory/ids.h"

namespace penstock::server {

class ActiveMap {
 public:
  ActiveMap() = default;
  explicit ActiveMap(uint32_t partition_count) : places_(partition_count) {}

  static ActiveMap Parse(std::string_view value, uint64_t cluster_id, uint32_t partition_count);
  std::string Serialize(uint64_t cluster_id) const;

  // This node is the home of these since that view.
  void Add(directory::Term term, const std::vector<directory::ActivatePartition>& partitions);
  bool Has(directory::Term term, const std::vector<directory::ActivatePartition>& partitions) const;
  // Into the last activation of each partition, `last`, where this one, of that node, has the larger term.
  void MergeInto(directory::NodeId home, std::vector<directory::Activation>* last) const;
  // One of its partitions has no larger term in `last`, which it was merged into: it tells where that partition's history was.
  bool IsLastAnywhere(const std::vector<directory::Activation>& last) const;

 private:
  struct Place {
    directory::Term term = 0;  // 0: never its home
    directory::NodeId backup = 0;
  };
  std::vector<Place> places_;
};

}  // namespace penstock::server
