// SharedSegments: the segments whose descriptors this node hands to clients.
//
// Makes them through the warden in the order that keeps them safe (size, seal GROW|SHRINK, map in warden and node, seal
// FUTURE_WRITE, only then hand out), and finds the descriptor for a segment id.
//
// Threading:  any thread; a mutex of its own.
// Ownership:  owns the descriptors; the mappings belong to this process until Drop.
// Errors:     ResourceExhausted from the warden, Internal when a seal is refused.
// Limits:     creating is a round trip to the warden (0.1 ms, more with populate).
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/warden/warden_client.h"
#include "transport/unique_fd.h"

namespace penstock::server {

struct SharedSegment {
  uint32_t id = 0;
  layout::SegmentKind kind{};
  uint64_t bytes = 0;
  void* address = nullptr;
  uint32_t page_kind = 0;
  bool sealed = false;
};

class SharedSegments {
 public:
  explicit SharedSegments(warden::WardenClient* warden) : warden_(warden) {}

  // Makes a segment that only the node writes: sealed before anybody gets its descriptor.
  absl::StatusOr<SharedSegment> CreateSealed(const warden::SegmentRequest& request);
  // Makes a segment that one client will write: not sealed yet. Seal() it once the client has mapped it.
  absl::StatusOr<SharedSegment> CreateUnsealed(const warden::SegmentRequest& request);
  absl::Status Seal(uint32_t id);
  SharedSegment Adopt(warden::Segment segment);  // inherited

  // A duplicate of the descriptor; empty when there is no such segment.
  UniqueFd Descriptor(uint32_t id, SharedSegment* info) const;

  // Unmaps it here and has the warden drop it.
  void Drop(uint32_t id);
  // Called before a segment is unmapped. To be set before there are other threads.
  void OnDrop(std::function<void(uint32_t id)> callback) { on_drop_ = std::move(callback); }

 private:
  struct Entry {
    SharedSegment info;
    UniqueFd fd;
  };
  warden::WardenClient* const warden_;
  std::function<void(uint32_t)> on_drop_;
  mutable std::mutex mutex_;
  absl::flat_hash_map<uint32_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
