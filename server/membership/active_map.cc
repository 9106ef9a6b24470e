#include "server/membership/active_map.h"

#include <algorithm>
#include <map>
#include <utility>

#include "cluster.pb.h"

namespace penstock::server {

ActiveMap ActiveMap::Parse(std::string_view value, uint64_t cluster_id, uint32_t partition_count) {
  ActiveMap map(partition_count);
  v1::Active active;
  if (!active.ParseFromArray(value.data(), static_cast<int>(value.size())) || active.cluster_id() != cluster_id) return map;
  for (const v1::Active::Group& group : active.groups()) {
    for (const uint32_t partition : group.partitions()) {
      if (partition < partition_count && group.term() > map.places_[partition].term) map.places_[partition] = {group.term(), group.backup()};
    }
  }
  return map;
}

std::string ActiveMap::Serialize(uint64_t cluster_id) const {
  v1::Active active;
  active.set_cluster_id(cluster_id);
  std::map<std::pair<directory::Term, directory::NodeId>, v1::Active::Group*> groups;
  for (uint32_t partition = 0; partition < places_.size(); ++partition) {
    const Place& place = places_[partition];
    if (place.term == 0) continue;
    v1::Active::Group*& group = groups[{place.term, place.backup}];
    if (group == nullptr) {
      group = active.add_groups();
      group->set_term(place.term);
      group->set_backup(place.backup);
    }
    group->add_partitions(partition);
  }
  return active.SerializeAsString();
}

void ActiveMap::Add(directory::Term term, const std::vector<directory::ActivatePartition>& partitions) {
  for (const directory::ActivatePartition& one : partitions) {
    if (one.partition < places_.size()) places_[one.partition] = {term, one.backup};
  }
}

bool ActiveMap::Has(directory::Term term, const std::vector<directory::ActivatePartition>& partitions) const {
  return std::all_of(partitions.begin(), partitions.end(), [&](const directory::ActivatePartition& one) {
    return one.partition < places_.size() && places_[one.partition].term == term && places_[one.partition].backup == one.backup;
  });
}

void ActiveMap::MergeInto(directory::NodeId home, std::vector<directory::Activation>* last) const {
  for (size_t partition = 0; partition < places_.size() && partition < last->size(); ++partition) {
    directory::Activation& activation = (*last)[partition];
    if (places_[partition].term > activation.term) activation = {places_[partition].term, home, places_[partition].backup};
  }
}

bool ActiveMap::IsLastAnywhere(const std::vector<directory::Activation>& last) const {
  for (size_t partition = 0; partition < places_.size() && partition < last.size(); ++partition) {
    if (places_[partition].term != 0 && places_[partition].term == last[partition].term) return true;
  }
  return false;
}

}  // namespace penstock::server
