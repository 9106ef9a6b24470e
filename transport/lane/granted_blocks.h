// GrantedBlocks: where the blocks of the grants of one session lie, as their owner told when it gave them out.
//
// For a lane that reads and writes them one-sided (transport/ucx/rdma_lane.h): what a grant is for is checked here, on the side
// that was given it, as the owner takes no part.
//
// Threading:  any thread
// Ownership:  what holds a block is kept until it is removed, and by the transfers that found it
// Errors:     Find: PERMISSION_DENIED not a grant of this session, or not for this
// Limits:     none
#ifndef PENSTOCK_TRANSPORT_LANE_GRANTED_BLOCKS_H_
#define PENSTOCK_TRANSPORT_LANE_GRANTED_BLOCKS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "transport/lane/lane.h"

namespace penstock {

// A granted block in its owner's memory.
struct RemoteBlock {
  uint64_t address = 0;
  uint64_t bytes = 0;
  std::string key;                   // RdmaTarget::Register's
  std::shared_ptr<const void> hold;  // kept while a transfer uses the block
};

class GrantedBlocks {
 public:
  void Add(uint64_t grant, RemoteBlock block, TransferKind kind = TransferKind::kRead) {
    std::lock_guard<std::mutex> lock(mutex_);
    blocks_.insert_or_assign(grant, std::pair(std::move(block), kind));
  }
  void Remove(uint64_t grant) {
    std::lock_guard<std::mutex> lock(mutex_);
    blocks_.erase(grant);
  }
  absl::StatusOr<RemoteBlock> Find(uint64_t grant, TransferKind kind) const;

 private:
  mutable std::mutex mutex_;
  std::map<uint64_t, std::pair<RemoteBlock, TransferKind>> blocks_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_LANE_GRANTED_BLOCKS_H_
