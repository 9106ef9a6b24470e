// RdmaMemory: this node's segments, as its peers reach them by RDMA.
//
// A segment (arena or extent) is registered, whole, when the first tensor in it is located, and taken back before it is unmapped.
// A key lets its holder write too: it goes to remote sessions only.
//
// Threading:  any thread
// Ownership:  to outlive the store's segments: Forget is called by the store
// Errors:     none: what cannot be registered has no key, and is read over the stream lane
// Limits:     registering takes about 5 ms a GiB and pins the pages (RLIMIT_MEMLOCK)
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/store/shared_segments.h"
#include "transport/ucx/rdma_target.h"

namespace penstock::server {

class RdmaMemory {
 public:
  // NOT_FOUND: no device, or built without UCX.
  static absl::StatusOr<std::unique_ptr<RdmaMemory>> Open();
  ~RdmaMemory();

  const std::string& worker() const;  // RdmaTarget::address
  std::string version() const;        // of UCX
  std::string KeyOf(const SharedSegment& segment);  // empty: none
  void Forget(uint32_t segment);
  // A key for one block alone, which is worth nothing when the registration goes. NOT_FOUND: none can be had here.
  absl::StatusOr<RdmaTarget::Registration> RegisterBlock(char* data, uint64_t bytes);

 private:
  explicit RdmaMemory(std::unique_ptr<RdmaTarget> target);
  const std::unique_ptr<RdmaTarget> target_;
  std::mutex mutex_;
  absl::flat_hash_map<uint32_t, RdmaTarget::Registration> registered_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
