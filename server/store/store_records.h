// StoreRecords: the store's records of the cluster's directory, as directory::DirectoryNode wants them.
//
//   StoreRecords records(store);
//   records.JoinCluster(view.cluster_id());      // before the DirectoryNode is made
//   directory::DirectoryNode node(config, environment, records);
//
// Threading:  one thread at a time, the directory's (Records); the store's mutex inside, for one partition at a time at most
// Ownership:  the store must outlive it
// Errors:     those of Records
// Limits:     Find: 0.3 us for a live record, 2 us for one of 100,000 that are aside. List sorts one partition's records; ForEach copies all records, a partition at a time.
//             Only for Config::partition_count == DirectoryBook::kPartitions.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "server/directory/records.h"
#include "server/store/store.h"

namespace penstock::server {

class StoreRecords final : public directory::Records {
 public:
  explicit StoreRecords(Store* store) : store_(store) {}

  // Names the cluster that this node is in now. What it holds of another one (etcd lost its data, or the node was moved) is
  // quarantined: this cluster's directory knows nothing of it.
  void JoinCluster(uint64_t cluster_id);

  std::optional<directory::HeldRecord> Find(std::string_view name, directory::OpId op) const override;
  void SetState(std::string_view name, directory::OpId op, directory::RecordState state, directory::Version version) override;
  void Drop(std::string_view name, directory::OpId op) override;
  std::vector<directory::HeldRecord> List(directory::Partition partition, std::string_view after, size_t limit) const override;
  void ForEach(const std::function<void(const directory::HeldRecord&)>& visit) const override;
  directory::Term since() const override;
  void SetSince(directory::Term since) override;

 private:
  Store* const store_;
};

}  // namespace penstock::server
