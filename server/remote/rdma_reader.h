// RdmaReader: how this node reads its peers' memory by RDMA, and writes its drafts there.
//
// Threading:  any thread
// Ownership:  lanes keep what they need
// Errors:     Open: NOT_FOUND no device, or built without UCX
// Limits:     UCX of one and the same version at both ends
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "transport/ucx/rdma_lane.h"

namespace penstock::server {

// Where the blocks of the grants of one session lie, as the peer told when it gave them out.
class GrantedBlocks {
 public:
  void Add(uint64_t grant, RemoteBlock block, TransferKind kind = TransferKind::kRead) {
    std::lock_guard lock(mutex_);
    blocks_.insert_or_assign(grant, std::pair(std::move(block), kind));
  }
  void Remove(uint64_t grant) {
    std::lock_guard lock(mutex_);
    blocks_.erase(grant);
  }
  absl::StatusOr<RemoteBlock> Find(uint64_t grant, TransferKind kind) const;

 private:
  mutable std::mutex mutex_;
  absl::flat_hash_map<uint64_t, std::pair<RemoteBlock, TransferKind>> blocks_ ABSL_GUARDED_BY(mutex_);
};

class RdmaReader {
 public:
  static absl::StatusOr<std::unique_ptr<RdmaReader>> Open();

  std::string version() const;  // of UCX
  absl::StatusOr<std::shared_ptr<Lane>> NewLane(std::string worker, std::shared_ptr<GrantedBlocks> blocks);

 private:
  explicit RdmaReader(std::shared_ptr<ucx::UcpContext> context) : context_(std::move(context)) {}
  const std::shared_ptr<ucx::UcpContext> context_;
};

}  // namespace penstock::server
