#include "server/ring/parked_requests.h"

#include <vector>

namespace penstock::server {

void ParkedRequests::Add(ParkedRequest request) {
  const Id id = next_++;
  Enter(id, request.parking);
  ++counts_[request.session->id];
  requests_.emplace(id, std::move(request));
}

void ParkedRequests::RemoveSession(uint64_t session) {
  if (counts_.erase(session) == 0) return;
  for (auto it = requests_.begin(); it != requests_.end();) {
    const auto here = it++;
    if (here->second.session->id == session) Forget(here);
  }
}

void ParkedRequests::RetryChanged(absl::Span<const uint64_t> name_hashes, absl::Time now, const Attempt& attempt) {
  std::set<Id> due;
  auto add = [&](uint64_t hash) {
    for (auto it = by_name_.lower_bound({hash, 0}); it != by_name_.end() && it->first == hash; ++it) due.insert(it->second);
  };
  add(0);
  for (uint64_t hash : name_hashes) add(hash);
  for (Id id : due) Retry(id, now, attempt);
}

void ParkedRequests::RetryLate(absl::Time now, const Attempt& attempt) {
  std::vector<Id> due;
  for (const auto& [until, id] : by_deadline_) {
    if (until > now) break;
    due.push_back(id);
  }
  for (Id id : due) Retry(id, now, attempt);
}

size_t ParkedRequests::count(uint64_t session) const {
  auto it = counts_.find(session);
  return it == counts_.end() ? 0 : it->second;
}

absl::Time ParkedRequests::next_deadline() const {
  return by_deadline_.empty() ? absl::InfiniteFuture() : by_deadline_.begin()->first;
}

void ParkedRequests::Retry(Id id, absl::Time now, const Attempt& attempt) {
  auto it = requests_.find(id);
  const Parking before = it->second.parking;
  const bool answered = attempt(it->second, before.until <= now);
  if (!(it->second.parking == before)) {
    Leave(id, before);
    Enter(id, it->second.parking);
  }
  if (answered) Forget(it);
}

void ParkedRequests::Enter(Id id, const Parking& parking) {
  by_name_.emplace(parking.name_hash, id);
  by_deadline_.emplace(parking.until, id);
}

void ParkedRequests::Leave(Id id, const Parking& parking) {
  by_name_.erase({parking.name_hash, id});
  by_deadline_.erase({parking.until, id});
}

void ParkedRequests::Forget(std::map<Id, ParkedRequest>::iterator it) {
  const ParkedRequest& request = it->second;
  Leave(it->first, request.parking);
  auto count = counts_.find(request.session->id);
  if (count != counts_.end() && --count->second == 0) counts_.erase(count);
  requests_.erase(it);
}

}  // namespace penstock::server
