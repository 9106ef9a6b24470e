#include "server/mutable/channel_source.h"

#include <algorithm>

#include "proto/layout/channel_layout.h"
#include "transport/stream/stream_wire.h"

namespace penstock::server {

StepSource::Next ChannelSource::After(uint64_t seq) const {
  if (released_.load(std::memory_order_relaxed)) return {.state = State::kReleased};
  const layout::ChannelHeader* header = layout::ChannelHeaderAt(where_.memory);
  const bool closed = header->closed.load(std::memory_order_acquire) != 0;  // before the look: what was written before the end is still given
  const uint64_t newest = header->latest.load();
  const bool is_newer = newest > seq && newest <= stream::kMaxStep;
  if (is_newer) {
    // The writer's next slot is that of newest + 1 - slots.
    const bool lost = newest - seq > where_.slots - uint64_t{1};
    if (!lost && IsWhole(seq + 1)) return {.state = State::kStep, .seq = seq + 1};
    if (IsWhole(newest)) return {.state = State::kStep, .seq = newest};
  }
  return {.state = closed ? State::kClosed : State::kNothing};
}

const char* ChannelSource::data(uint64_t seq) const {
  return static_cast<const char*>(where_.memory) + layout::ChannelDataOffset(where_.slots) + seq % where_.slots * layout::ChannelStride(where_.nbytes);
}

bool ChannelSource::IsWhole(uint64_t seq) const {
  std::atomic_thread_fence(std::memory_order_acquire);  // no look at a byte after the look at the sequence
  return layout::ChannelSlots(where_.memory)[seq % where_.slots].seq.load(std::memory_order_acquire) == 2 * seq;
}

char* ChannelSource::copy() {
  if (copy_ == nullptr) copy_.reset(new char[std::max<uint64_t>(where_.nbytes, 1)]);
  return copy_.get();
}

}  // namespace penstock::server
