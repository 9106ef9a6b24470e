#include "client/session/ring_client.h"

#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <string>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/futex.h"

namespace penstock::client {
namespace {

using layout::BlockState;
using layout::RequestBlock;
using layout::RingHeader;
using layout::RingOp;

constexpr uint32_t kMaxBlocks = layout::kQueueEntries - 512;
constexpr int kWokenForSpace = 4;  // by one block that was given back: not thousands, not only one that needs more
constexpr int32_t kMinSpinNanos = 12'000;  // above the round trip of a small put, or it stays down
constexpr int32_t kMaxSpinNanos = 40'000;
// A request that was submitted twice may be answered twice: its block rests until the second answer
// must have come (the node keeps a request for at most 5 s).
constexpr int64_t kRestNanos = 15'000'000'000;
constexpr absl::Duration kSlice = absl::Milliseconds(100);

constexpr uint32_t RoundToUnit(uint64_t bytes) {
  return static_cast<uint32_t>((bytes + layout::kBlockUnit - 1) / layout::kBlockUnit *
                               layout::kBlockUnit);
}

inline void CpuPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

bool SpinningMakesSense() {
  static const bool more_than_one_core = sysconf(_SC_NPROCESSORS_ONLN) > 1;
  return more_than_one_core;
}

}  // namespace

RingRequest& RingRequest::operator=(RingRequest&& other) noexcept {
  if (this == &other) return *this;
  Finish();
  ring_ = std::exchange(other.ring_, nullptr);
  block_ = std::exchange(other.block_, nullptr);
  position_ = other.position_;
  data_offset_ = other.data_offset_;
  queue_index_ = other.queue_index_;
  generation_ = other.generation_;
  submitted_ = other.submitted_;
  resubmitted_ = other.resubmitted_;
  return *this;
}

void RingRequest::Submit(bool wake) {
  ring_->Enqueue(this);
  if (wake) ring_->WakeNode();
}

absl::Status RingRequest::Wait(const Deadline& deadline) {
  if (!done() && !ring_->SpinUntilDone(*this)) {
    if (absl::Status s = ring_->WaitAsleep(this, deadline); !s.ok()) return s;
  }
  if (block_->status_code == 0) return absl::OkStatus();
  if (block_->is_transport_error == 1) return TransportError(response());
  return absl::Status(static_cast<absl::StatusCode>(block_->status_code),
                      std::string(response()));
}

std::string_view RingRequest::response() const {
  const uint32_t offset = block_->response_offset;
  const uint32_t capacity = block_->block_bytes - offset;
  return {reinterpret_cast<const char*>(block_) + offset,
          std::min(block_->response_bytes, capacity)};
}

absl::Status RingRequest::CopyResponse(void* out, size_t bytes) const {
  const std::string_view answer = response();
  if (answer.size() < bytes) {
    return absl::InternalError(StrCat("the node answered with ", answer.size(),
                                      " bytes; expected ", bytes));
  }
  memcpy(out, answer.data(), bytes);
  return absl::OkStatus();
}

void RingRequest::Finish() {
  if (ring_ == nullptr) return;
  ring_->GiveBack(this);
  ring_ = nullptr;
  block_ = nullptr;
}

absl::Status RingClient::Attach(Mapping ring, UniqueFd node_event,
                                const std::atomic<uint64_t>* generation) {
  const auto* header = reinterpret_cast<const RingHeader*>(ring.data());
  if (header->magic != layout::kRingMagic || header->layout_version != layout::kLayoutVersion) {
    return absl::FailedPreconditionError(
        StrCat("the node's ring has layout version ", header->layout_version, ", this client ",
               layout::kLayoutVersion, ": update the older one"));
  }
  if (header->queue_entries != layout::kQueueEntries ||
      header->staging_offset != layout::kRingStagingOffset ||
      header->staging_bytes != layout::kStagingBytes || ring.size() < layout::kRingBytes) {
    return absl::InternalError("the node's ring has other sizes than its layout version says");
  }
  // A forked child has a session of its own, or none.
  if (absl::Status s = ring.DontFork(); !s.ok()) return s;
  std::lock_guard<std::mutex> lock(mutex_);
  mapping_ = std::move(ring);
  node_event_ = std::move(node_event);
  generation_ = generation;
  staging_ = StagingArea(layout::kStagingBytes / layout::kBlockUnit);
  blocks_out_ = 0;
  seen_head_ = header->head.load(std::memory_order_acquire);
  attached_.store(true, std::memory_order_release);
  return absl::OkStatus();
}

void RingClient::ChildReset() {
  (void)mapping_.Release();
  mapping_ = Mapping();
  node_event_.reset();
  left_behind_.clear();
  late_drafts_.clear();
  late_draft_count_.store(0);
  attached_.store(false);
}

RequestBlock* RingClient::BlockAt(uint32_t position) const {
  return reinterpret_cast<RequestBlock*>(mapping_.data() + layout::kRingStagingOffset +
                                         uint64_t{position} * layout::kBlockUnit);
}

std::optional<RingRequest> RingClient::TryAllocate(const RingRequestSizes& sizes) {
  const uint32_t data_offset = RoundToUnit(sizeof(RequestBlock) + sizes.request_bytes);
  const uint32_t response_offset = RoundToUnit(uint64_t{data_offset} + sizes.data_bytes);
  const uint32_t bytes = RoundToUnit(uint64_t{response_offset} + sizes.response_bytes);
  RingRequest request;
  uint64_t id;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!left_behind_.empty()) ReapLeftBehind();
    if (blocks_out_ >= kMaxBlocks) return std::nullopt;
    const auto position =
        staging_.Allocate(bytes / static_cast<uint32_t>(layout::kBlockUnit));
    if (!position) return std::nullopt;
    ++blocks_out_;
    id = next_request_id_++;
    request.position_ = *position;
  }
  request.ring_ = this;
  request.block_ = BlockAt(request.position_);
  request.data_offset_ = data_offset;
  RequestBlock* block = request.block_;
  block->state.store(static_cast<uint32_t>(BlockState::kFree), std::memory_order_relaxed);
  block->op = static_cast<uint32_t>(sizes.op);
  block->block_bytes = bytes;
  block->request_bytes = sizes.request_bytes;
  block->request_id = id;
  block->response_offset = response_offset;
  block->status_code = 0;
  block->is_transport_error = 0;
  block->response_bytes = 0;
  memset(block->reserved, 0, sizeof(block->reserved));
  return request;
}

absl::StatusOr<RingRequest> RingClient::Allocate(const RingRequestSizes& sizes,
                                                 const Deadline& deadline) {
  const uint64_t total = uint64_t{sizes.request_bytes} + sizes.data_bytes + sizes.response_bytes;
  if (total > layout::kStagingBytes - 1024) {
    return absl::InvalidArgumentError(StrCat("a request of ", total, " bytes; at most ",
                                             layout::kStagingBytes - 1024, " are possible"));
  }
  if (late_draft_count_.load(std::memory_order_relaxed) != 0) AbortLateDraft();
  if (std::optional<RingRequest> request = TryAllocate(sizes)) return *std::move(request);
  while (true) {
    const uint32_t epoch = space_epoch_.load();
    space_waiters_.fetch_add(1);
    std::optional<RingRequest> request = TryAllocate(sizes);
    // Who is not woken looks again; the more there are, the less often.
    const absl::Duration slice = absl::Milliseconds(20 + space_waiters_.load() / 8);
    if (!request) FutexWait(&space_epoch_, epoch, deadline.Slice(slice));
    space_waiters_.fetch_sub(1);
    if (request) return *std::move(request);
    if (ended_->load()) return absl::UnavailableError("the store has ended");
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(
          "no space in the submission ring: the node has not answered earlier requests");
    }
  }
}

void RingClient::Enqueue(RingRequest* request) {
  request->generation_ = generation_->load();
  request->submitted_ = true;
  request->block_->state.store(static_cast<uint32_t>(BlockState::kPending),
                               std::memory_order_release);
  Resubmit(request);
}

void RingClient::Resubmit(RingRequest* request) {
  const auto offset = static_cast<uint32_t>(
      (layout::kRingStagingOffset + uint64_t{request->position_} * layout::kBlockUnit) /
      layout::kBlockUnit);
  std::lock_guard<std::mutex> lock(mutex_);
  RingHeader* ring = header();
  const uint32_t tail = ring->tail.load(std::memory_order_relaxed);
  ring->queue[tail % layout::kQueueEntries] = offset;
  request->queue_index_ = tail;
  ring->tail.store(tail + 1, std::memory_order_seq_cst);
}

void RingClient::WakeNode() {
  if (header()->node_sleeping.load(std::memory_order_seq_cst) == 0) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(node_event_.get(), &one, sizeof(one));
}

// Without sched_yield: on a busy machine that gives the core away for whole time slices, while a sleeper on a
// futex is run as soon as the answer is there.
bool RingClient::SpinUntilDone(const RingRequest& request) {
  if (!SpinningMakesSense()) return false;
  const int32_t budget = spin_nanos_.load(std::memory_order_relaxed);
  const int64_t start = MonotonicNanos();
  while (true) {
    for (int i = 0; i < 32; ++i) {
      if (request.done()) {
        if (budget < kMaxSpinNanos) spin_nanos_.store(budget + budget / 8 + 1);
        return true;
      }
      CpuPause();
    }
    const int64_t spent = MonotonicNanos() - start;
    if (spent > budget) break;
  }
  // Not worth it lately: the next ones spin less, but never so little that it cannot recover.
  spin_nanos_.store(std::max(kMinSpinNanos, budget - budget / 8), std::memory_order_relaxed);
  return false;
}

absl::Status RingClient::WaitAsleep(RingRequest* request, const Deadline& deadline) {
  std::atomic<uint32_t>& state = request->block_->state;
  const auto waiting = static_cast<uint32_t>(BlockState::kWaiting);
  while (true) {
    auto expected = static_cast<uint32_t>(BlockState::kPending);
    state.compare_exchange_strong(expected, waiting);
    if (request->done()) return absl::OkStatus();
    FutexWait(&state, waiting, deadline.Slice(kSlice));
    if (request->done()) return absl::OkStatus();
    if (ended_->load()) return absl::UnavailableError("the store has ended");
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(
          "the node did not answer in time; whether it did what was asked is not known");
    }
    // A node that took the request off the queue and died with it: the next one gets it again.
    const uint64_t generation = generation_->load();
    if (generation == request->generation_) continue;
    request->generation_ = generation;
    if (static_cast<int32_t>(header()->head.load() - request->queue_index_) > 0) {
      request->resubmitted_ = true;
      Resubmit(request);
      WakeNode();
    }
  }
}

void RingClient::GiveBack(RingRequest* request) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool answered = request->done();
    if (request->submitted_ &&
        (request->resubmitted_ || !answered || !NodeHasPassed(request->queue_index_))) {
      const int64_t rest = request->resubmitted_ ? MonotonicNanos() + kRestNanos : 0;
      left_behind_.push_back(
          {request->position_, request->queue_index_, request->block_, rest, answered});
      return;
    }
    staging_.Free(request->position_);
    --blocks_out_;
  }
  if (space_waiters_.load() != 0) {
    space_epoch_.fetch_add(1);
    FutexWake(&space_epoch_, kWokenForSpace);
  }
}

// A node that dies before it has passed a request is followed by one that reads its block again: until
// then the block must go on saying that it is answered.
bool RingClient::NodeHasPassed(uint32_t queue_index) {
  if (static_cast<int32_t>(seen_head_ - queue_index) > 0) return true;
  seen_head_ = header()->head.load(std::memory_order_acquire);
  return static_cast<int32_t>(seen_head_ - queue_index) > 0;
}

void RingClient::ReapLeftBehind() {
  for (size_t i = 0; i < left_behind_.size();) {
    const RequestBlock* block = left_behind_[i].block;
    const int64_t not_before = left_behind_[i].not_before;
    if ((not_before != 0 && MonotonicNanos() < not_before) ||
        block->state.load(std::memory_order_acquire) !=
            static_cast<uint32_t>(BlockState::kDone) ||
        !NodeHasPassed(left_behind_[i].queue_index)) {
      ++i;
      continue;
    }
    // A draft that was reserved for somebody who had stopped waiting.
    // (Asked for twice over a node's death, it still is one draft: the node knows the request again.)
    if (!left_behind_[i].answer_taken &&
        block->op == static_cast<uint32_t>(RingOp::kReserve) && block->status_code == 0) {
      layout::CreateResponse made;
      memcpy(&made, reinterpret_cast<const char*>(block) + block->response_offset, sizeof(made));
      if (made.record != 0) late_drafts_.push_back({made.record, 0, made.record_seq});
      late_draft_count_.store(static_cast<uint32_t>(late_drafts_.size()));
    }
    staging_.Free(left_behind_[i].position);
    --blocks_out_;
    left_behind_[i] = left_behind_.back();
    left_behind_.pop_back();
  }
}

void RingClient::AbortLateDraft() {
  layout::DraftRequest draft;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (late_drafts_.empty()) return;
    draft = late_drafts_.back();
    late_drafts_.pop_back();
    late_draft_count_.store(static_cast<uint32_t>(late_drafts_.size()));
  }
  std::optional<RingRequest> abort =
      TryAllocate({.op = RingOp::kAbort, .request_bytes = sizeof(draft)});
  if (!abort) {
    std::lock_guard<std::mutex> lock(mutex_);
    late_drafts_.push_back(draft);
    late_draft_count_.store(static_cast<uint32_t>(late_drafts_.size()));
    return;
  }
  memcpy(abort->body(), &draft, sizeof(draft));
  abort->Submit();
}

}  // namespace penstock::client
