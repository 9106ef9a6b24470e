// RingClient: the client's side of the submission ring (proto/layout/ring_layout.h).
//
//   auto request = ring.Allocate({.op = RingOp::kLookup, .request_bytes = n}, deadline);
//   fill request->body();  request->Submit();
//   if (absl::Status s = request->Wait(deadline); !s.ok()) return s;
//   read request->response()
//
// A request that is in the ring outlives the node process: the next one executes it, the caller just
// waits. A caller that gives up leaves its block behind; it is taken back once the node is done.
//
// Threading:  RingClient: any thread. A RingRequest: one thread at a time.
// Ownership:  RingRequest owns its block until it is destroyed; the ring must outlive it
// Errors:     Wait: the node's own status; DEADLINE_EXCEEDED (the outcome is unknown); UNAVAILABLE
//             (the store has ended). Allocate: DEADLINE_EXCEEDED, INVALID_ARGUMENT (too large)
// Limits:     3584 blocks and 8 MiB in flight; a lock for allocating and for submitting; one system
//             call when the node sleeps, one when the answer takes long
#ifndef PENSTOCK_CLIENT_SESSION_RING_CLIENT_H_
#define PENSTOCK_CLIENT_SESSION_RING_CLIENT_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session/deadline.h"
#include "client/session/staging.h"
#include "proto/layout/ring_layout.h"
#include "transport/segment/mapping.h"
#include "transport/unique_fd.h"

namespace penstock::client {

class RingClient;

struct RingRequestSizes {
  layout::RingOp op;
  uint32_t request_bytes = 0;
  uint32_t data_bytes = 0;
  uint32_t response_bytes = layout::kMinResponseBytes;
};

class RingRequest {
 public:
  RingRequest(RingRequest&& other) noexcept { *this = std::move(other); }
  RingRequest& operator=(RingRequest&& other) noexcept;
  RingRequest(const RingRequest&) = delete;
  RingRequest& operator=(const RingRequest&) = delete;
  ~RingRequest() { Finish(); }

  char* body() const { return reinterpret_cast<char*>(block_) + sizeof(layout::RequestBlock); }
  uint32_t data_offset() const { return data_offset_; }
  char* data() const { return reinterpret_cast<char*>(block_) + data_offset_; }

  // `wake` = false: the caller submits more and calls RingClient::WakeNode at the end.
  void Submit(bool wake = true);
  bool done() const {
    return block_->state.load(std::memory_order_acquire) ==
           static_cast<uint32_t>(layout::BlockState::kDone);
  }
  // Until the node has answered; then the status that it answered with.
  absl::Status Wait(const Deadline& deadline);

  // After an OK: the bytes of the answer; as T when there are enough.
  std::string_view response() const;
  template <class T>
  absl::StatusOr<T> ResponseAs() const {
    T out;
    if (absl::Status s = CopyResponse(&out, sizeof(T)); !s.ok()) return s;
    return out;
  }

  // Gives the block back (or leaves it behind when the node is not done with it).
  void Finish();

 private:
  friend class RingClient;
  RingRequest() = default;
  absl::Status CopyResponse(void* out, size_t bytes) const;

  RingClient* ring_ = nullptr;
  layout::RequestBlock* block_ = nullptr;
  uint32_t position_ = 0;  // in units
  uint32_t data_offset_ = 0;
  uint32_t queue_index_ = 0;
  uint64_t generation_ = 0;
  bool submitted_ = false;
  bool resubmitted_ = false;
};

class RingClient {
 public:
  // `ended`: true once the store has ended.
  explicit RingClient(const std::atomic<bool>* ended) : ended_(ended), staging_(0) {}
  RingClient(const RingClient&) = delete;
  RingClient& operator=(const RingClient&) = delete;

  // Checks the header of the ring. `generation`: the node's, in the catalog header. May be called again after ChildReset.
  absl::Status Attach(Mapping ring, UniqueFd node_event, const std::atomic<uint64_t>* generation);
  bool attached() const { return attached_.load(std::memory_order_acquire); }

  // Waits for space until the deadline.
  absl::StatusOr<RingRequest> Allocate(const RingRequestSizes& sizes, const Deadline& deadline);
  // Nothing when there is no space now.
  std::optional<RingRequest> TryAllocate(const RingRequestSizes& sizes);
  void WakeNode();

  // --- fork ---
  std::mutex& mutex() { return mutex_; }
  void ChildReset();

 private:
  friend class RingRequest;
  // A block whose request is over for its caller, but not for the node.
  struct LeftBehind {
    uint32_t position;
    uint32_t queue_index;
    layout::RequestBlock* block;
    int64_t not_before;  // MonotonicNanos
    bool answer_taken;
  };

  layout::RingHeader* header() const {
    return reinterpret_cast<layout::RingHeader*>(mapping_.data());
  }
  layout::RequestBlock* BlockAt(uint32_t position) const;
  void Enqueue(RingRequest* request);
  void Resubmit(RingRequest* request);
  absl::Status WaitAsleep(RingRequest* request, const Deadline& deadline);
  bool SpinUntilDone(const RingRequest& request);
  void GiveBack(RingRequest* request);
  bool NodeHasPassed(uint32_t queue_index);
  void ReapLeftBehind();
  void AbortLateDraft();

  const std::atomic<bool>* const ended_;
  std::atomic<bool> attached_{false};
  Mapping mapping_;
  UniqueFd node_event_;
  const std::atomic<uint64_t>* generation_ = nullptr;
  std::atomic<int32_t> spin_nanos_{30'000};  // adapts to whether spinning pays
  std::atomic<uint32_t> space_epoch_{0};     // futex of those who wait for space
  std::atomic<uint32_t> space_waiters_{0};
  std::atomic<uint32_t> late_draft_count_{0};

  std::mutex mutex_;  // guards what follows, and the tail of the queue
  StagingArea staging_;
  uint32_t blocks_out_ = 0;
  uint32_t seen_head_ = 0;  // the node's head when it was last looked at
  uint64_t next_request_id_ = 1;
  std::vector<LeftBehind> left_behind_;
  std::vector<layout::DraftRequest> late_drafts_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_RING_CLIENT_H_
