// PutOffers: the bytes of this node's puts that wait for their replicas, for the nodes that make these to read at once.
//
//   offers.Offer(op, held);                    // before the nodes are asked
//   pull.offer = offers.NumberOf(op);          // a grant for every session on the data port
//   offers.Withdraw(op);                       // the put is over
//
// An order to copy (directory::Pull) names the offer, so its target need not locate, and pin, the record first: the put holds it.
//
// Threading:  any thread
// Ownership:  holds what is offered; a transfer holds what it uses
// Errors:     NOT_FOUND the put is over, or an earlier process's
// Limits:     one put each; as many as there are puts with replicas under way
#pragma once

#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/strcat.h"
#include "server/directory/ids.h"
#include "server/store/store.h"
#include "transport/lane/lane.h"

namespace penstock::server {

class PutOffers {
 public:
  // Offers' numbers, among those of grants.
  static bool IsOffer(uint64_t grant) { return (grant & kFirst) != 0; }

  void Offer(directory::OpId op, Store::HeldTensor held) {
    std::lock_guard lock(mutex_);
    const uint64_t number = next_++;
    numbers_[op] = number;
    offers_.emplace(number, std::move(held));
  }
  void Withdraw(directory::OpId op) {
    decltype(offers_)::node_type withdrawn;  // given back without the lock
    std::lock_guard lock(mutex_);
    const auto it = numbers_.find(op);
    if (it == numbers_.end()) return;
    withdrawn = offers_.extract(it->second);
    numbers_.erase(it);
  }
  uint64_t NumberOf(directory::OpId op) const {  // 0: it is not offered
    std::lock_guard lock(mutex_);
    const auto it = numbers_.find(op);
    return it == numbers_.end() ? 0 : it->second;
  }
  // To be read only.
  absl::StatusOr<GrantedBlock> Use(uint64_t number) const {
    std::lock_guard lock(mutex_);
    const auto it = offers_.find(number);
    if (it == offers_.end()) return absl::NotFoundError(StrCat("offer ", number & ~kFirst, ": the put is over"));
    const Store::HeldTensor& held = it->second;
    return GrantedBlock{const_cast<char*>(held.data), held.info.nbytes(), held.hold};
  }

 private:
  static constexpr uint64_t kFirst = uint64_t{1} << 63;  // RemoteSessions counts grants from 1

  mutable std::mutex mutex_;
  absl::flat_hash_map<directory::OpId, uint64_t> numbers_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Store::HeldTensor> offers_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = kFirst | 1;
};

}  // namespace penstock::server
