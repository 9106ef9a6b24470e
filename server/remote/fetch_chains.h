// FetchChains: which nodes copy a large tensor of this one now, in the order in which they began.
//
// Each but the first is sent to the one that began before it, so this node sends the bytes about once, however many want them. Who
// asks again (its copy failed) is sent to nobody who began after it: so no two can wait for each other.
//
// Threading:  any thread
// Ownership:  a place keeps what it needs; it may outlive this
// Errors:     none
// Limits:     an entry for each place that is held
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "server/store/store.h"

namespace penstock::server {

class FetchChains {
 public:
  using Tensor = std::pair<uint64_t, uint64_t>;  // a record and its sequence: Store::HeldTensor's location

  struct Joined {
    std::shared_ptr<const void> place;  // leaves the chain when it goes
    std::optional<NodeUuid> ahead;      // whom it follows; none: this node
    uint32_t ahead_count = 0;
  };
  Joined Join(Tensor tensor, const NodeUuid& node) {
    std::lock_guard lock(state_->mutex);
    std::list<NodeUuid>& chain = state_->chains[tensor];
    Joined joined;
    const auto own = std::find(chain.begin(), chain.end(), node);
    joined.ahead_count = static_cast<uint32_t>(std::distance(chain.begin(), own));
    if (own != chain.begin()) joined.ahead = *std::prev(own);
    const auto place = chain.insert(chain.end(), node);
    joined.place = std::shared_ptr<const void>(&*place, [state = state_, tensor, place](const void*) { state->Leave(tensor, place); });
    return joined;
  }

 private:
  struct State {
    std::mutex mutex;
    std::map<Tensor, std::list<NodeUuid>> chains ABSL_GUARDED_BY(mutex);

    void Leave(const Tensor& tensor, std::list<NodeUuid>::iterator place) {
      std::lock_guard lock(mutex);
      const auto chain = chains.find(tensor);
      chain->second.erase(place);
      if (chain->second.empty()) chains.erase(chain);
    }
  };
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace penstock::server
