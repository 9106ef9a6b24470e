// BlockSpace: the arenas and extents, and the memory budget that they share.
//
// Arenas are written by the node only; any session's small tensors go there. An extent is written by one session in
// place; memory that a client could ever write is never given to another one: a free extent goes back to its live
// session or to the system. A dropped segment counts against the budget until every session that holds its descriptor
// has unmapped it or ended ("leaving").
//
// Threading:  one thread at a time (the store's mutex). Making segments is slow (they are populated): callers make
//             them outside (SharedSegments) and add them here.
// Ownership:  the segments' memory is the warden's; this class keeps the books.
// Errors:     none; "no space" is an empty optional.
// Limits:     see BlockPolicy.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "server/allocator/block_allocator.h"
#include "server/store/shared_segments.h"

namespace penstock::server {

// Sizes of segments, derived from the budget.
struct BlockPolicy {
  explicit BlockPolicy(uint64_t memory_bytes);
  uint64_t memory_bytes;
  uint64_t arena_bytes;        // of an ordinary arena
  uint64_t first_extent_bytes;
  uint64_t max_extent_bytes;   // a bigger draft gets an extent of its own
};

struct Block {
  uint32_t segment = 0;  // 0: a tensor of no bytes
  uint64_t offset = 0;
  char* address = nullptr;
};

struct DataSegment {
  SharedSegment shared;
  BlockAllocator allocator;
  uint64_t owner = 0;        // session that writes it; 0 = arena, or its session has ended
  bool arena = true;
  bool adopting = false;     // its blocks are being copied to arenas
  bool frozen = false;       // what is free in it may be in use: nobody gets it, nor is it given back
  absl::flat_hash_set<uint64_t> holders;  // sessions that were given the descriptor
};

class BlockSpace {
 public:
  BlockSpace(const BlockPolicy& policy, SharedSegments* segments) : policy_(policy), segments_(segments) {}

  std::optional<Block> AllocateInArena(uint64_t nbytes);
  std::optional<Block> AllocateInExtent(uint64_t session, uint64_t nbytes);
  void Free(uint32_t segment, uint64_t offset, uint64_t nbytes);
  // Recovery, before anything is allocated: a block that is in use.
  absl::Status Reserve(uint32_t segment, uint64_t offset, uint64_t nbytes);

  // Recovery: somebody reads a block that is not known.
  void FreezeAll();

  DataSegment* Add(const SharedSegment& shared, uint64_t owner);  // owner 0 = arena
  DataSegment* Find(uint32_t segment);
  char* Address(uint32_t segment, uint64_t offset);

  // Bytes that a new segment may take. Reserve before making one, cancel before Add.
  bool ReserveBudget(uint64_t bytes);
  void CancelReservation(uint64_t bytes);
  uint64_t unreserved_bytes() const;
  // Size of the next extent for a session that asks for `nbytes` and has extents of `held_bytes` already.
  uint64_t NextExtentBytes(uint64_t nbytes, uint64_t held_bytes) const;
  uint64_t NextArenaBytes(uint64_t nbytes) const;

  // Segments without a block that can be given back: all arenas but `keep_arena_bytes` of them (one, at least, unless that is
  // 0), and of the extents those whose session has ended, or all.
  std::vector<uint32_t> EmptySegments(uint64_t keep_arena_bytes, bool of_live_sessions) const;
  uint64_t ExtentBytesOf(uint64_t session) const;
  // Takes a segment out of use; its memory counts until HolderGone has been called for all holders.
  // Returns the holders that must be told.
  std::vector<uint64_t> Leave(uint32_t segment);
  void HolderGone(uint32_t segment, uint64_t session);
  void SessionEnded(uint64_t session);

  // Extents whose session has ended and that are mostly empty (or any, with `all`): candidates for adoption,
  // lowest first.
  std::vector<uint32_t> Orphans(bool all) const;

  // Segments that have left and that sessions still hold.
  std::vector<std::pair<uint32_t, std::vector<uint64_t>>> Leaving() const;

  const std::map<uint32_t, std::unique_ptr<DataSegment>>& segments() const { return data_; }
  const BlockPolicy& policy() const { return policy_; }
  uint64_t segment_bytes() const { return segment_bytes_; }
  uint64_t leaving_bytes() const { return leaving_bytes_; }
  uint64_t block_bytes() const { return block_bytes_; }
  uint64_t arena_free_bytes() const;

 private:
  void Erase(uint32_t segment, DataSegment* data);

  const BlockPolicy policy_;
  SharedSegments* const segments_;
  std::map<uint32_t, std::unique_ptr<DataSegment>> data_;
  std::map<uint32_t, std::unique_ptr<DataSegment>> leaving_;
  std::vector<DataSegment*> arenas_;
  size_t arena_hint_ = 0;
  uint64_t segment_bytes_ = 0;
  uint64_t leaving_bytes_ = 0;
  uint64_t reserved_bytes_ = 0;
  uint64_t block_bytes_ = 0;
};

}  // namespace penstock::server
