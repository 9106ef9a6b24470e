// Which proposals this home has decided, so that a late duplicate does not happen again.
//
// Per proposing process a window: below `below` everything is finished (its proposer said so), above it the results are
// kept. It lives with the home's process: another home is active under another term, and refuses proposals of this one's.
//
// Threading:  one thread
// Ownership:  values
// Errors:     none
// Limits:     one result for each operation that a proposer started after its oldest open one; what a process that is no
//             member did is forgotten after kKeep (no message is under way for so long)
#pragma once

#include <map>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "server/directory/directory_messages.h"
#include "server/directory/view.h"

namespace penstock::server::directory {

struct OperationResult {
  Outcome outcome = Outcome::kAborted;
  Version version;
};

class FinishedOperations {
 public:
  static constexpr Time kKeep = 3600 * kSecond;

  void ForgetBelow(uint64_t session, uint64_t count) {
    Window& window = windows_[session];
    if (count <= window.below) return;
    window.below = count;
    window.results.erase(window.results.begin(), window.results.lower_bound(count));
  }
  void Remember(OpId op, OperationResult result) {
    Window& window = windows_[op.session];
    if (op.count >= window.below) window.results.emplace(op.count, result);
  }
  void ForgetStrangers(const View& view, Time now) {
    for (auto& [session, window] : windows_) {
      if (window.met == 0 || view.FindSession(session)) window.met = now;
    }
    absl::erase_if(windows_, [now](const auto& item) { return item.second.met + kKeep < now; });
  }
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
    Time met = 0;  // when its process was last a member
    std::map<uint64_t, OperationResult> results;
  };
  absl::flat_hash_map<uint64_t, Window> windows_;
};

}  // namespace penstock::server::directory
