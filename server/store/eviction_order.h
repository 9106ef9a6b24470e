// EvictionOrder: which tensors go first when memory is needed: those of the cache class (eviction), or those that may go to the
// spill directory.
//
// S3-FIFO (J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023): what is new waits in a small queue, a
// tenth of the bytes, and goes from there, unless it was used twice meanwhile; then it comes to the main queue, where every use gives
// it one more turn (at most three). So a scan over many tensors passes through the small queue and pushes out nothing that is used
// again and again. Of what went, the hashes of the names are remembered (*ghosts*): what comes back soon goes to the main queue.
// Soft pins have two queues of their own, whose turn comes when all others have been offered.
//
// Uses are sampled (Store::NoteUses): local gets make no call.
//
// Threading:  guarded by the store's mutex
// Ownership:  references only
// Errors:     none. Remove, Touch and Pass of what is not here do nothing
// Limits:     O(1) a call, Next amortised; some 130 bytes a tensor, 40 a ghost, of which there are as many as tensors, at most kMaxGhosts
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <list>

#include "absl/container/flat_hash_map.h"
#include "proto/layout/catalog_layout.h"

namespace penstock::server {

class EvictionOrder {
 public:
  static constexpr size_t kMaxGhosts = 100'000;

  struct Item {
    layout::RecordRef ref = 0;
    uint64_t nbytes = 0;
    uint64_t name_hash = 0;
    bool soft_pin = false;
  };
  void Add(const Item& item);  // it was not here
  void Remove(layout::RecordRef ref);  // deleted, overwritten, expired
  void Evict(layout::RecordRef ref);   // the same, and remembered
  void Touch(layout::RecordRef ref);   // it was used

  // One walk over what there was when it began:
  //   for (Walk walk = order.Begin(); RecordRef ref = order.Next(&walk);) take ? order.Evict(ref) : order.Pass(ref);
  struct Walk {
    std::array<size_t, 2> left;  // to be offered; soft pins last
  };
  Walk Begin() const { return {{queues_[0].count(), queues_[1].count()}}; }
  layout::RecordRef Next(Walk* walk);  // 0: all were offered
  void Pass(layout::RecordRef ref);    // it cannot go now: behind all others

  bool Has(layout::RecordRef ref) const { return places_.contains(ref); }
  size_t count() const { return places_.size(); }
  uint64_t bytes() const { return queues_[0].bytes() + queues_[1].bytes(); }

 private:
  struct Entry {
    Item item;
    bool in_main = false;
    uint8_t uses = 0;
  };
  using List = std::list<Entry>;
  struct Queues {  // oldest first
    List small, main;
    uint64_t small_bytes = 0, main_bytes = 0;
    size_t count() const { return small.size() + main.size(); }
    uint64_t bytes() const { return small_bytes + main_bytes; }
  };

  Queues& QueuesOf(const Entry& entry) { return queues_[entry.item.soft_pin]; }
  void ToMain(List::iterator entry);
  void Remember(uint64_t name_hash);
  layout::RecordRef Coldest(Queues& queues);

  std::array<Queues, 2> queues_;
  absl::flat_hash_map<layout::RecordRef, List::iterator> places_;
  std::deque<uint64_t> ghosts_;                     // oldest first
  absl::flat_hash_map<uint64_t, uint32_t> ghost_counts_;
};

}  // namespace penstock::server
