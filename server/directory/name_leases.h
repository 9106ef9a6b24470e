// Which nodes may serve a copy of a name until when: a home grants it with a lookup and waits for it before a change.
//
// Threading:  one thread
// Ownership:  values
// Errors:     none
// Limits:     one entry for each name that was leased lately; Expire() forgets the others
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "server/directory/ids.h"
#include "server/directory/name_map.h"

namespace penstock::server::directory {

class NameLeases {
 public:
  struct Lease {
    NodeId node = 0;
    Time until = 0;
  };

  void Grant(std::string_view name, NodeId node, Time until) {
    std::vector<Lease>& leases = leases_.try_emplace(name).first->second;
    for (Lease& lease : leases) {
      if (lease.node == node) {
        lease.until = std::max(lease.until, until);
        return;
      }
    }
    leases.push_back({node, until});
  }
  // Nodes that may still serve a copy.
  std::vector<NodeId> Holders(std::string_view name, Time now) const {
    std::vector<NodeId> nodes;
    auto it = leases_.find(name);
    if (it == leases_.end()) return nodes;
    for (const Lease& lease : it->second) {
      if (now < lease.until) nodes.push_back(lease.node);
    }
    return nodes;
  }
  void Returned(std::string_view name, NodeId node) {
    auto it = leases_.find(name);
    if (it == leases_.end()) return;
    auto& leases = it->second;
    leases.erase(std::remove_if(leases.begin(), leases.end(), [&](const Lease& l) { return l.node == node; }),
                 leases.end());
    if (leases.empty()) leases_.erase(it);
  }
  void Expire(Time now) {
    absl::erase_if(leases_, [now](const auto& item) {
      return std::all_of(item.second.begin(), item.second.end(), [now](const Lease& l) { return l.until <= now; });
    });
  }

 private:
  NameMap<std::vector<Lease>> leases_;
};

}  // namespace penstock::server::directory
