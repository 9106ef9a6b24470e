// Which proposals this home has decided, so that a late duplicate does not happen again.
//
// Per proposing process a window: below `below` everything is finished (its proposer said so), above it the results are
// kept. It lives with the home's process: another home is active under another term, and refuses proposals of this one's.
//
// Threading:  one thread
// Ownership:  values
// Errors:     none
// Limits:     one result for each operation that a proposer started after its oldest open one
#pragma once

#include <map>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "server/directory/directory_messages.h"

namespace penstock::server::directory {

struct OperationResult {
  Outcome outcome = Outcome::kAborted;
  Version version;
};

class FinishedOperations {
 public:
  void ForgetBelow(uint64_t session, uint64_t count) {
    Window& window = windows_[session];
    if (count <= window.below) return;
    window.below = count;
    window.results.erase(window.results.begin(), window.results.lower_bound(count));
  }
  void Remember(OpId op, OperationResult result) { windows_[op.session].results.emplace(op.count, result); }
  // Its proposer has an answer and does not wait for another.
  bool IsForgotten(OpId op) const {
    auto it = windows_.find(op.session);
    return it != windows_.end() && op.count < it->second.below;
  }
  std::optional<OperationResult> Find(OpId op) const {
    auto it = windows_.find(op.session);
    if (it == windows_.end()) return std::nullopt;
    auto result = it->second.results.find(op.count);
    if (result == it->second.results.end()) return std::nullopt;
    return result->second;
  }

 private:
  struct Window {
    uint64_t below = 0;
    std::map<uint64_t, OperationResult> results;
  };
  absl::flat_hash_map<uint64_t, Window> windows_;
};

}  // namespace penstock::server::directory
