// FallbackLane: a lane, and the one that does what the first could not.
//
// Threading:  as Lane
// Ownership:  owns both
// Errors:     those of the second lane, where it was asked; CANCELLED, and what is wrong with a request, at once
// Limits:     the first may take half of the time; after a failure the second is used alone for kDown
#ifndef PENSTOCK_TRANSPORT_LANE_FALLBACK_LANE_H_
#define PENSTOCK_TRANSPORT_LANE_FALLBACK_LANE_H_

#include <memory>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "transport/lane/lane.h"

namespace penstock {

class FallbackLane final : public Lane {
 public:
  static constexpr absl::Duration kDown = absl::Seconds(10);

  FallbackLane(std::unique_ptr<Lane> first, std::unique_ptr<Lane> second) : first_(std::move(first)), second_(std::move(second)) {}

  // The one that is used now.
  std::string_view name() const override;
  void Run(absl::Span<Transfer> transfers, const RunOptions& options) override;

 private:
  bool IsUp() const;

  const std::unique_ptr<Lane> first_;
  const std::unique_ptr<Lane> second_;
  mutable std::mutex mutex_;
  absl::Time down_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_LANE_FALLBACK_LANE_H_
