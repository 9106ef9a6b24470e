// ServerConnection's steps of channels.
//
// A step is copied before its first byte goes out: a peer that takes long would else be sent what the writer, who waits for
// nobody, has come round to meanwhile. The copy is the grant's own (StepSource::copy), so there is one for each and no more.
#include <algorithm>
#include <cstring>

#include "transport/fault_point.h"
#include "transport/stream/server_connection.h"

namespace penstock::stream {

ServerConnection::Progress ServerConnection::AwaitStep(const StreamRequest& request) {
  const bool well_formed = request.request_id != 0 && request.dim_count == 0 && request.run_bytes == 0 && request.skip == 0 && request.length == 0 &&
                           request.offset <= kMaxStep &&
                           std::all_of(std::begin(request.zero), std::end(request.zero), [](uint8_t byte) { return byte == 0; });
  if (!well_formed) return Refuse(request.request_id, absl::InvalidArgumentError("request: malformed"));
  in_begin_ += sizeof(request);
  counters_->requests.fetch_add(1, std::memory_order_relaxed);
  const absl::Status awaited = steps_.Await(token_, grants_, request.request_id, request.grant, request.offset);
  if (!awaited.ok()) AppendAnswer(request.request_id, awaited, 0);
  return out_.size() < kJoinedBytes ? Progress::kGoOn : Flush(false);
}

bool ServerConnection::IsDue() {
  if (awaits_growth_) {
    const absl::StatusOr<uint64_t> ready = Ready();
    return !ready.ok() || *ready > 0;
  }
  if (steps_.empty() || state_ != State::kRequest) return false;  // when the present answer is out it looks by itself
  steps_.Look();
  return steps_.AnyDue();
}

// Whether there is something else to do now than to wait for requests.
bool ServerConnection::BeginStep() {
  while (out_.size() < kJoinedBytes) {
    std::optional<FollowedSteps::Due> due = steps_.TakeDue();
    if (!due) return false;
    switch (due->next.state) {
      case StepSource::State::kStep:
        step_ = *std::move(due);
        copied_ = 0;
        state_ = State::kCopyStep;
        return true;
      case StepSource::State::kClosed: {
        const StepHead head{.seq = 0, .flags = kStepClosed, .zero = 0};
        AppendAnswer(due->request_id, absl::OkStatus(), sizeof(head));
        out_.append(reinterpret_cast<const char*>(&head), sizeof(head));
        break;
      }
      default: AppendAnswer(due->request_id, absl::PermissionDeniedError("grant: was released"), 0);
    }
  }
  return false;
}

ServerConnection::Progress ServerConnection::CopyStep() {
  StepSource& source = *step_.source;
  const uint64_t bytes = source.nbytes();
  const uint64_t piece = std::min(bytes - copied_, kTurnBytes - std::min(turn_bytes_, kTurnBytes));
  std::memcpy(source.copy() + copied_, source.data(step_.next.seq) + copied_, piece);
  copied_ += piece;
  turn_bytes_ += piece;
  if (copied_ < bytes) return Progress::kGoOn;
  state_ = State::kRequest;
  if (!source.IsWhole(step_.next.seq)) {
    steps_.Torn(step_);
    step_ = {};
    return Progress::kGoOn;
  }
  PENSTOCK_FAULT_POINT("node.step.copied");
  const StepHead head{.seq = step_.next.seq, .flags = 0, .zero = 0};
  AppendAnswer(step_.request_id, absl::OkStatus(), sizeof(head) + bytes);
  out_.append(reinterpret_cast<const char*>(&head), sizeof(head));
  steps_.Sent(step_);
  block_ = {.data = source.copy(), .bytes = bytes, .hold = step_.source};
  runs_ = ByteRuns::Whole(bytes);
  cursor_.emplace(runs_);
  piece_ = {};
  left_ = length_ = bytes;
  step_ = {};
  BeginPayload();
  return Progress::kGoOn;
}

}  // namespace penstock::stream
