// NameLeases: which of this node's names other nodes may serve from copies of theirs, and until when.
//
// A node that has a copy may serve it by name, without a call, as long as its lease lasts. So a change of the name (a new
// version, a delete) has to wait until the leases are over, or were called back (server/remote/lease_recall.h).
//
// Names are told apart by their hash: two that share one only wait for each other.
//
// Threading:  the store's lock
// Ownership:  values
// Errors:     none
// Limits:     one entry a name; those that are over are swept out now and then
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace penstock::server {

class NameLeases {
 public:
  // Times: MonotonicNow.
  void Grant(uint64_t name_hash, absl::Time until, absl::Time now) {
    if (until_.size() >= sweep_at_) Sweep(now);
    absl::Time& last = until_.try_emplace(name_hash, until).first->second;
    last = std::max(last, until);
  }
  void End(uint64_t name_hash) { until_.erase(name_hash); }
  // Forgets what is over.
  void Sweep(absl::Time now) {
    if (empty()) return;
    absl::erase_if(until_, [now](const auto& entry) { return entry.second <= now; });
    if (all_until_ <= now) all_until_ = absl::InfinitePast();
    sweep_at_ = std::max<size_t>(1024, 2 * until_.size());
  }
  // What an earlier node process has granted is not known by name.
  void HoldAll(absl::Time until) { all_until_ = until; }

  bool empty() const { return until_.empty() && all_until_ == absl::InfinitePast(); }
  bool Held(uint64_t name_hash, absl::Time now) const {
    if (all_until_ > now) return true;
    auto it = until_.find(name_hash);
    return it != until_.end() && it->second > now;
  }
  absl::Time all_until() const { return all_until_; }

 private:
  absl::flat_hash_map<uint64_t, absl::Time> until_;
  size_t sweep_at_ = 1024;
  absl::Time all_until_ = absl::InfinitePast();
};

}  // namespace penstock::server
