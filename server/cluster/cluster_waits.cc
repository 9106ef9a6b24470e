#include "server/cluster/cluster_waits.h"

#include <algorithm>
#include <utility>

#include "transport/monotonic.h"

namespace penstock::server {

std::optional<directory::LookupResult> ClusterWaits::Look(const std::string& name) {
  const absl::Time now = MonotonicNow();
  std::lock_guard lock(mutex_);
  if (stopping_) return std::nullopt;
  const auto [it, first] = names_.try_emplace(name);
  Waited& waited = it->second;
  waited.wanted_until = now + kInterest;
  if (first) waited.ask_at = now;
  if (!asking_.joinable()) asking_ = std::thread([this] { Run(); });
  if (first) changed_.notify_all();
  if (now - waited.found_at > kFresh) return std::nullopt;
  return waited.found;
}

std::vector<std::string> ClusterWaits::Due(absl::Time now) {
  std::vector<std::string> due;
  absl::erase_if(names_, [now](const auto& entry) { return entry.second.wanted_until < now && !entry.second.asked; });
  for (auto& [name, waited] : names_) {
    if (waited.asked || waited.ask_at > now) continue;
    waited.asked = true;
    waited.ask_at = now + waited.pause;
    waited.pause = std::min(2 * waited.pause, kLongestPause);
    due.push_back(name);
  }
  return due;
}

void ClusterWaits::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const absl::Time now = MonotonicNow();
    std::vector<std::string> due = Due(now);
    if (!due.empty()) {
      lock.unlock();
      directory_->Lookup(due, /*lease=*/false, absl::InfiniteFuture(), [this, due, now](std::vector<directory::LookupResult> results, absl::Time) { Take(due, now, std::move(results)); });
      lock.lock();
      continue;
    }
    if (names_.empty()) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, absl::ToChronoNanoseconds(kFirstPause));
    }
  }
}

void ClusterWaits::Take(const std::vector<std::string>& names, absl::Time asked, std::vector<directory::LookupResult> results) {
  std::vector<std::string> found;
  {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < names.size(); ++i) {
      const auto it = names_.find(names[i]);
      if (it == names_.end()) continue;
      it->second.asked = false;
      if (i >= results.size() || results[i].status != directory::LookupStatus::kFound) continue;
      it->second.found_at = asked;
      it->second.found = std::move(results[i]);
      found.push_back(names[i]);
    }
  }
  for (const std::string& name : found) store_->NoteNews(name);
}

void ClusterWaits::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (asking_.joinable()) asking_.join();
}

}  // namespace penstock::server
