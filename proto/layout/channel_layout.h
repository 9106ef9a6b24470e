// A channel as it lies in shared memory: a ring of slots for a tensor that changes all the time.
//
//   ChannelHeader     latest, turns, closed, followed, away
//   ChannelSlot       one for each slot: its sequence
//   data              slots of `stride` bytes, from DataOffset on
//
// Step n (1, 2, ...) lies in slot n % slots. Each slot is a sequence lock: the writer stores 2n-1, a release fence, the
// bytes, then 2n with release. A reader that found 2n (acquire) looks at the bytes, an acquire fence, and looks at the
// sequence again: still 2n means that it saw step n and nothing else (H. Boehm, "Can seqlocks get along with programming
// language memory models?", MSPC 2012). 0 = nothing in it. So a writer that dies in the middle leaves an odd sequence.
//
// A *mirror* is the same memory on another host, written by the node there: steps keep their numbers, those that it missed
// are not there, as after a reader that was too slow. So a reader of it does nothing else than a reader here.
//
// Geometry is not in here: clients get it from the node (fd_messages.h), because the writer can write all of this.
//
// Threading:  one writer; any number of readers in any process, which map it read-only and take no word of it on trust;
//             `closed` is also stored by the node, when the writer's session ends; `followed` and `away` by the node alone
// Ownership:  the segment belongs to the warden
// Errors:     none
// Limits:     kMinSlots..kMaxSlots slots
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace penstock::layout {

inline constexpr uint32_t kMinSlots = 2;
inline constexpr uint32_t kMaxSlots = 1024;

struct ChannelHeader {
  alignas(64) std::atomic<uint64_t> latest;  // newest step; 0 = none yet
  std::atomic<uint32_t> turns;               // grows with every step and when it is closed: what readers sleep on
  std::atomic<uint32_t> closed;              // 1: no further step will come
  std::atomic<uint32_t> followed;            // 1: somebody elsewhere reads: after a step (seq_cst) the writer rings the node's bell
  std::atomic<uint32_t> away;                // of a mirror, 1: the channel's node is not heard; it may be again
};
struct ChannelSlot {
  alignas(64) std::atomic<uint64_t> seq;
};
static_assert(sizeof(ChannelHeader) == 64 && offsetof(ChannelHeader, turns) == 8 && offsetof(ChannelHeader, closed) == 12 &&
              offsetof(ChannelHeader, followed) == 16 && offsetof(ChannelHeader, away) == 20);
static_assert(sizeof(ChannelSlot) == 64);

constexpr uint64_t ChannelStride(uint64_t nbytes) { return nbytes == 0 ? 64 : (nbytes + 63) / 64 * 64; }
constexpr uint64_t ChannelDataOffset(uint32_t slots) { return (64 + 64 * uint64_t{slots} + 4095) / 4096 * 4096; }
constexpr uint64_t ChannelBytes(uint64_t nbytes, uint32_t slots) {
  return (ChannelDataOffset(slots) + ChannelStride(nbytes) * slots + 4095) / 4096 * 4096;
}

inline ChannelHeader* ChannelHeaderAt(void* memory) { return static_cast<ChannelHeader*>(memory); }
inline const ChannelHeader* ChannelHeaderAt(const void* memory) { return static_cast<const ChannelHeader*>(memory); }
inline ChannelSlot* ChannelSlots(void* memory) {
  return reinterpret_cast<ChannelSlot*>(static_cast<char*>(memory) + sizeof(ChannelHeader));
}
inline const ChannelSlot* ChannelSlots(const void* memory) {
  return reinterpret_cast<const ChannelSlot*>(static_cast<const char*>(memory) + sizeof(ChannelHeader));
}

}  // namespace penstock::layout
