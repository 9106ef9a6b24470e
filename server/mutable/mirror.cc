#include "server/mutable/mirror.h"

#include "proto/layout/channel_layout.h"
#include "transport/fault_point.h"
#include "transport/futex.h"

namespace penstock::server {

namespace {

void WakeReaders(layout::ChannelHeader* header) {
  header->turns.fetch_add(1, std::memory_order_release);
  FutexWake(&header->turns);
}

}  // namespace

bool Mirror::IsOf(const MutableMemory::Facts& facts) const {
  const MutableSpec& spec = memory_.facts.spec;
  return facts.incarnation == memory_.facts.incarnation && facts.spec.nbytes == spec.nbytes && facts.spec.slots == spec.slots &&
         facts.spec.dtype == spec.dtype && facts.spec.shape == spec.shape;
}

uint64_t Mirror::latest() const { return layout::ChannelHeaderAt(memory_.address)->latest.load(std::memory_order_relaxed); }

uint64_t Mirror::After(uint64_t newest_there) const {
  if (latest() > 0) return latest();
  return newest_there > 0 ? newest_there - 1 : 0;
}

char* Mirror::Begin(uint64_t seq) {
  const uint32_t slots = memory_.facts.spec.slots;
  layout::ChannelSlots(memory_.address)[seq % slots].seq.store(2 * seq - 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);  // no byte of the step before the odd sequence
  writing_ = seq;
  PENSTOCK_FAULT_POINT("node.mirror.begun");
  return memory_.address + layout::ChannelDataOffset(slots) + seq % slots * layout::ChannelStride(nbytes());
}

void Mirror::End() {
  layout::ChannelHeader* header = layout::ChannelHeaderAt(memory_.address);
  layout::ChannelSlots(memory_.address)[writing_ % memory_.facts.spec.slots].seq.store(2 * writing_, std::memory_order_release);
  header->latest.store(writing_, std::memory_order_release);
  writing_ = 0;
  WakeReaders(header);
}

void Mirror::Break() {
  if (writing_ == 0) return;
  layout::ChannelSlots(memory_.address)[writing_ % memory_.facts.spec.slots].seq.store(0, std::memory_order_release);
  writing_ = 0;
}

void Mirror::SetAway(bool away) {
  layout::ChannelHeader* header = layout::ChannelHeaderAt(memory_.address);
  if (header->away.exchange(away ? 1 : 0) == (away ? 1u : 0u)) return;
  WakeReaders(header);
}

void Mirror::Followed() {
  followed_.store(true);
  WakeReaders(layout::ChannelHeaderAt(memory_.address));
}

void Mirror::Fail(absl::Status why) {
  std::lock_guard lock(mutex_);
  failure_ = std::move(why);
}

absl::Status Mirror::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

}  // namespace penstock::server
