#include "transport/lane/fallback_lane.h"

#include <vector>

#include "transport/monotonic.h"

namespace penstock {

std::string_view FallbackLane::name() const { return (IsUp() ? first_ : second_)->name(); }

bool FallbackLane::IsUp() const {
  std::lock_guard lock(mutex_);
  return MonotonicNow() >= down_until_;
}

void FallbackLane::Run(absl::Span<Transfer> transfers, const RunOptions& options) {
  if (!IsUp()) return second_->Run(transfers, options);
  const absl::Time end = MonotonicNow() + options.timeout;
  first_->Run(transfers, {.timeout = options.timeout / 2, .cancelled = options.cancelled});
  std::vector<Transfer> again;
  std::vector<Transfer*> failed;
  for (Transfer& transfer : transfers) {
    if (!absl::IsUnavailable(transfer.status) && !absl::IsDeadlineExceeded(transfer.status)) continue;
    failed.push_back(&transfer);
    again.push_back(transfer);
    again.back().status = absl::OkStatus();
  }
  if (failed.empty()) return;
  {
    std::lock_guard lock(mutex_);
    down_until_ = MonotonicNow() + kDown;
  }
  second_->Run(absl::MakeSpan(again), {.timeout = end - MonotonicNow(), .cancelled = options.cancelled});
  for (size_t i = 0; i < failed.size(); ++i) failed[i]->status = again[i].status;
}

}  // namespace penstock
