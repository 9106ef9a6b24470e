#include "server/store/store_records.h"

#include <algorithm>

namespace penstock::server {

using directory::HeldRecord;
using directory::OpId;

// The id comes last: a process that dies in between does it all again.
void StoreRecords::JoinCluster(uint64_t cluster_id) {
  layout::CatalogHeader* header = store_->header();
  const uint64_t last = header->cluster_id.load();
  if (last == cluster_id) return;
  if (last != 0) {
    std::vector<HeldRecord> strangers;
    ForEach([&](const HeldRecord& record) { strangers.push_back(record); });
    for (const HeldRecord& record : strangers) SetState(record.name, record.op, directory::RecordState::kQuarantined, record.version);
  }
  header->directory_since.store(0);
  header->cluster_id.store(cluster_id);
}

std::optional<HeldRecord> StoreRecords::Find(std::string_view name, OpId op) const { return store_->FindByOp(name, op); }

void StoreRecords::SetState(std::string_view name, OpId op, directory::RecordState state, directory::Version version) {
  store_->SetDirectoryState(name, op, state, version);
}

void StoreRecords::Drop(std::string_view name, OpId op) { store_->DropByOp(name, op); }

std::vector<HeldRecord> StoreRecords::List(directory::Partition partition, std::string_view after, size_t limit) const {
  std::vector<HeldRecord> records = store_->HeldIn(partition);
  std::erase_if(records, [&](const HeldRecord& record) { return record.name <= after; });
  std::sort(records.begin(), records.end(), [](const HeldRecord& a, const HeldRecord& b) { return std::tie(a.name, a.op) < std::tie(b.name, b.op); });
  if (limit >= records.size()) return records;
  while (limit > 0 && limit < records.size() && records[limit].name == records[limit - 1].name) ++limit;
  records.resize(limit);
  return records;
}

// A partition at a time, so that others get their turn; records change on this thread only.
void StoreRecords::ForEach(const std::function<void(const HeldRecord&)>& visit) const {
  for (directory::Partition p = 0; p < DirectoryBook::kPartitions; ++p) {
    for (const HeldRecord& record : store_->HeldIn(p)) visit(record);
  }
}

directory::Term StoreRecords::since() const { return store_->header()->directory_since.load(); }

void StoreRecords::SetSince(directory::Term since) { store_->header()->directory_since.store(since); }

}  // namespace penstock::server
