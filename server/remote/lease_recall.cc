#include "server/remote/lease_recall.h"

#include <algorithm>
#include <chrono>

#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

bool LeaseRecall::Grants(const LaneToken& token, std::string_view name, absl::Time now) {
  std::lock_guard lock(mutex_);
  const std::string key(name);
  if (changing_.contains(key)) return false;
  Holder& holder = holders_[token];
  if (holder.leases.size() >= holder.sweep_at) {
    absl::erase_if(holder.leases, [now](const auto& lease) { return lease.second.until <= now; });
    holder.sweep_at = std::max<size_t>(1024, 2 * holder.leases.size());
  }
  holder.leases[key] = {now + kLease + kMargin, next_++};
  return true;
}

LeaseRecall::Recalls LeaseRecall::Await(const LaneToken& token, uint64_t done, absl::Duration longest) {
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(longest);
  std::unique_lock lock(mutex_);
  Holder& asking = holders_[token];
  bool obeyed = false;
  for (; !asking.recalls.empty() && asking.recalls.front().number <= done; asking.recalls.pop_front()) {
    const Recall& recall = asking.recalls.front();
    const auto lease = asking.leases.find(recall.name);
    if (lease != asking.leases.end() && lease->second.number < recall.number) asking.leases.erase(lease);
    obeyed = true;
  }
  if (obeyed) changed_.notify_all();
  auto it = holders_.end();
  const bool some = changed_.wait_until(lock, deadline, [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    it = holders_.find(token);  // may be gone meanwhile
    return stopping_ || it == holders_.end() || !it->second.recalls.empty();
  });
  Recalls recalls{.last = done, .names = {}};
  if (!some || it == holders_.end()) return recalls;
  for (const Recall& recall : it->second.recalls) {
    recalls.last = recall.number;
    recalls.names.push_back(recall.name);
  }
  return recalls;
}

void LeaseRecall::Forget(const LaneToken& token) {
  std::lock_guard lock(mutex_);
  if (auto it = holders_.find(token); it != holders_.end()) {
    it->second.gone = true;
    it->second.recalls.clear();
  }
  SweepHolders(MonotonicNow());
  changed_.notify_all();
}

void LeaseRecall::SweepHolders(absl::Time now) {
  for (auto it = holders_.begin(); it != holders_.end();) {
    const auto here = it++;
    Holder& holder = here->second;
    if (!holder.recalls.empty()) continue;
    absl::erase_if(holder.leases, [now](const auto& lease) { return lease.second.until <= now; });
    if (holder.leases.empty()) holders_.erase(here);
  }
}

void LeaseRecall::Stop() {
  std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

absl::Time LeaseRecall::LastOf(const std::vector<std::string>& names) const {
  absl::Time last = absl::InfinitePast();
  for (const auto& [token, holder] : holders_) {
    for (const std::string& name : names) {
      if (auto lease = holder.leases.find(name); lease != holder.leases.end()) last = std::max(last, lease->second.until);
    }
  }
  return last;
}

LeaseRecall::Recalled::Recalled(LeaseRecall* recall, std::vector<std::string> names) : recall_(recall), names_(std::move(names)) {
  recall_->CallBack(names_);
}

LeaseRecall::Recalled::~Recalled() { recall_->Allow(names_); }

void LeaseRecall::CallBack(const std::vector<std::string>& names) {
  const absl::Time of_the_past = store_->leases_of_the_past() + kMargin;
  std::unique_lock lock(mutex_);
  for (const std::string& name : names) ++changing_[name];
  for (auto& [token, holder] : holders_) {
    for (const std::string& name : names) {
      if (!holder.gone && holder.leases.contains(name)) holder.recalls.push_back({next_++, name});
    }
  }
  changed_.notify_all();
  PENSTOCK_FAULT_POINT("node.recall.told");
  while (true) {
    const absl::Duration left = std::max(LastOf(names), of_the_past) - MonotonicNow();
    if (left <= absl::ZeroDuration()) break;
    changed_.wait_for(lock, absl::ToChronoNanoseconds(left));
  }
  PENSTOCK_FAULT_POINT("node.recall.over");
}

void LeaseRecall::Allow(const std::vector<std::string>& names) {
  for (const std::string& name : names) store_->EndLeases(name);
  std::lock_guard lock(mutex_);
  for (const std::string& name : names) {
    if (auto it = changing_.find(name); --it->second == 0) changing_.erase(it);
  }
}

absl::StatusOr<uint64_t> LeaseRecall::DeletePrefix(std::string_view prefix) {
  std::vector<std::string> leased;
  absl::StatusOr<uint64_t> count = store_->DeletePrefix(prefix, &leased);
  if (!count.ok() || leased.empty()) return count;
  const Recalled recalled(this, leased);
  for (const std::string& name : leased) {
    if (store_->Delete(name, 0, LeaseRule::kRecalled).ok()) ++*count;
  }
  return count;
}

}  // namespace penstock::server
