// SegmentMap: the segments of the node as this process maps them.
//
// Readers ask for the address of a segment id on the path of every get, so that is two loads.
// Everything is mapped read-only; besides, the extents that this session opened are mapped writable
// (for drafts), and segments may get a second, copy-on-write mapping (for torch).
//
// Threading:  Address: any thread, lock-free. The rest: any thread, under an own leaf mutex.
//             OnNotice and Background: the channel's thread.
// Ownership:  owns the mappings until the node drops a segment (it does so only when no pin of this
//             session names it) or the map is destroyed. Descriptors are closed once mapped.
// Errors:     those of FdChannel::Call; RESOURCE_EXHAUSTED from mmap; INTERNAL for a descriptor that
//             could be truncated under us
// Limits:     512 KiB of address space for each 65536 ids; untouched pages cost nothing
#ifndef PENSTOCK_CLIENT_SESSION_SEGMENT_MAP_H_
#define PENSTOCK_CLIENT_SESSION_SEGMENT_MAP_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session/fd_channel.h"
#include "client/session/write_guard.h"
#include "transport/segment/mapping.h"

namespace penstock::client {

class SegmentMap {
 public:
  explicit SegmentMap(FdChannel* channel);
  SegmentMap(const SegmentMap&) = delete;
  SegmentMap& operator=(const SegmentMap&) = delete;
  ~SegmentMap();

  // The read-only mapping of a segment; nullptr when it is not mapped (yet).
  const std::byte* Address(uint32_t segment) const {
    Leaf* leaf = top_[segment >> kLeafBits].load(std::memory_order_acquire);
    return leaf == nullptr ? nullptr
                           : leaf[segment & (kLeafEntries - 1)].load(std::memory_order_acquire);
  }

  // The same, asking the node for it when necessary. `bytes` (optional): its size.
  absl::StatusOr<const std::byte*> Map(uint32_t segment, const Deadline& deadline,
                                       uint64_t* bytes = nullptr);

  // --- extents of this session ---
  // Opens an extent of at least `bytes`, mapped writable and populated; returns its id.
  absl::StatusOr<uint32_t> OpenExtent(uint64_t bytes, const Deadline& deadline);
  // Writable memory of a block in an extent of this session; lifts an earlier WriteProtect.
  absl::StatusOr<std::byte*> WritableBlock(uint32_t segment, uint64_t offset, uint64_t bytes);
  // Turns the pages that lie whole inside the block read-only in the writable mapping.
  void WriteProtect(uint32_t segment, uint64_t offset, uint64_t bytes);

  // --- copy-on-write (torch) ---
  // Every call wants a DropPrivate with the same block; the last one forgets what was written.
  absl::StatusOr<std::byte*> Private(uint32_t segment, uint64_t offset, uint64_t bytes,
                                     const Deadline& deadline);
  void DropPrivate(uint32_t segment, uint64_t offset, uint64_t bytes);

  // --- the channel's thread ---
  void OnNotice(FdReply notice);
  bool Background();

  // --- fork ---
  std::mutex& mutex() { return mutex_; }
  void ChildReset();        // forgets writable mappings, which a child does not inherit
  void MakeInaccessible();  // tensor memory faults from now on, rather than show something else

 private:
  using Leaf = std::atomic<std::byte*>;
  static constexpr uint32_t kLeafBits = 16;
  static constexpr uint32_t kLeafEntries = 1u << kLeafBits;

  struct Segment {
    layout::SegmentKind kind{};
    Mapping readable;
    Mapping writable;
    Mapping copy_on_write;
    WriteGuard guard;  // of `writable`
    std::map<uint64_t, uint32_t> private_users;  // by offset
  };
  struct PopulateTask {
    uint32_t segment;
    uint64_t done_bytes;
  };

  Leaf* LeafOf(uint32_t segment);
  absl::StatusOr<std::byte*> Install(const layout::SegmentMessage& message, int fd,
                                     uint64_t* bytes);
  absl::StatusOr<FdReply> GetSegment(uint32_t segment, const Deadline& deadline);
  void Drop(uint32_t segment);

  FdChannel* const channel_;
  std::atomic<Leaf*>* const top_;
  std::mutex mutex_;  // guards what follows
  std::map<uint32_t, Segment> segments_;
  std::vector<Mapping> blanked_;  // address ranges of dropped indexes: readers may still look there
  std::deque<PopulateTask> populate_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_SEGMENT_MAP_H_
