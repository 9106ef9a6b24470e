// DeletedVersions: the last version of names that have no record, so that a name's versions grow over its deletes.
//
// Remembers the most recent kCapacity deleted names by hash; for all others a floor stands in, which grows with what is
// forgotten (a name put anew may then start above 1, never at or below a version it had).
//
// Threading:  guarded by the store's mutex
// Ownership:  values only
// Errors:     none
// Limits:     kCapacity names
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>

#include "absl/container/flat_hash_map.h"

namespace penstock::server {

class DeletedVersions {
 public:
  static constexpr size_t kCapacity = 65536;

  void Remember(uint64_t name_hash, uint64_t version) {
    versions_[name_hash] = version;
    order_.push_back(name_hash);
    while (order_.size() > kCapacity) {
      auto it = versions_.find(order_.front());
      order_.pop_front();
      if (it == versions_.end()) continue;
      floor_ = std::max(floor_, it->second);
      versions_.erase(it);
    }
  }
  // The largest version that the name may have had.
  uint64_t Last(uint64_t name_hash) const {
    auto it = versions_.find(name_hash);
    return it == versions_.end() ? floor_ : std::max(floor_, it->second);
  }
  void RaiseFloor(uint64_t version) { floor_ = std::max(floor_, version); }

 private:
  absl::flat_hash_map<uint64_t, uint64_t> versions_;
  std::deque<uint64_t> order_;
  uint64_t floor_ = 0;
};

}  // namespace penstock::server
