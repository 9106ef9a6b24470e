// A region as it lies in shared memory: its reader/writer lock, then its bytes.
//
// Every hold, and everybody who waits for one, has a HoldSlot of his own and is alone in writing its `word`; the only word
// that all contend for is `writer`, which names a slot. So each step is one store of one word, and a process that dies
// between two of them leaves a lock that says the truth: the node then sets its slots to idle and takes `writer` from it.
//
//   read    word = reading; writer == 0 ? held : word = wanting to read, wait
//   write   word = wanting to write, with a ticket; writer: 0 -> own slot + 1 (the lowest ticket first); wait until no slot
//           is reading; word = writing
//   end of a write   every slot that wants to read: -> reading (they waited longest); writer = 0
//
// A writer thus stops new readers while it waits, and readers that waited for a writer go before the next one: neither
// starves. All accesses are seq_cst: "word = reading, then look at writer" against "take writer, then look at the words"
// is the pattern of Dekker's algorithm.
//
// Threading:  all processes that have the region open, and the node, map it writable
// Ownership:  the segment belongs to the warden
// Errors:     who has it open can break it, for himself and those he shares it with, as he can its bytes; the node takes
//             no word on trust
// Limits:     kHoldSlots holds and waiters at a time
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace penstock::layout {

inline constexpr uint32_t kHoldSlots = 252;

enum class HoldState : uint64_t { kIdle = 0, kReading = 1, kWantRead = 2, kWriting = 3, kWantWrite = 4 };
constexpr uint64_t HoldWord(HoldState state, uint64_t ticket = 0) { return ticket << 8 | static_cast<uint64_t>(state); }
constexpr HoldState StateOfHold(uint64_t word) { return static_cast<HoldState>(word & 255); }
constexpr uint64_t TicketOfHold(uint64_t word) { return word >> 8; }

struct HoldSlot {
  alignas(64) std::atomic<uint64_t> session;  // 0 = free; taken by compare-and-swap, word is idle then
  std::atomic<uint64_t> word;                 // HoldWord
  std::atomic<uint64_t> owner;                // who of the session: finds deadlocks; chosen by the client
};

struct RegionHeader {
  alignas(64) std::atomic<uint32_t> writer;  // slot + 1 of who writes, or waits for the readers to end; 0 = nobody
  std::atomic<uint32_t> turns;               // grows whenever somebody may go on: what waiters sleep on
  std::atomic<uint32_t> waiting;             // how many sleep, about: 0 spares the system call that wakes them
  std::atomic<uint32_t> abandoned;           // 1: a writer died while it wrote, and none has written since
  std::atomic<uint64_t> next_ticket;
  std::atomic<uint32_t> deleted;             // 1: the name is gone; set by the node
  std::atomic<uint32_t> used;                // slots from here on were never taken: who looks for others stops there
  uint32_t reserved[24];
  HoldSlot slots[kHoldSlots];
};
static_assert(sizeof(HoldSlot) == 64 && offsetof(RegionHeader, next_ticket) == 16 && offsetof(RegionHeader, slots) == 128);
inline constexpr uint64_t kRegionDataOffset = 16384;  // a page boundary
static_assert(sizeof(RegionHeader) <= kRegionDataOffset);

constexpr uint64_t RegionBytes(uint64_t nbytes) { return (kRegionDataOffset + nbytes + 4095) / 4096 * 4096; }

}  // namespace penstock::layout
