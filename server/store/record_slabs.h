// RecordSlabs: the catalog's record memory, cut into slabs whose records all have one stride.
//
// A slab keeps its stride for ever, so the start of a record never becomes the inside of another one and a reader that
// follows a stale index entry always lands on a sequence word. Free slots are kept in private lists by stride.
//
// Threading:  one thread at a time (the store's mutex).
// Ownership:  chunks are segments of the warden; their mappings stay for the life of the process.
// Errors:     ResourceExhausted when all chunks are used or the warden cannot make one.
// Limits:     strides of 1..16 units of 64 bytes exactly, then in steps of a quarter, up to 320 units (20 KiB).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/layout/catalog_layout.h"
#include "server/store/shared_segments.h"

namespace penstock::server {

class RecordSlabs {
 public:
  RecordSlabs(layout::CatalogHeader* header, SharedSegments* segments);

  absl::StatusOr<layout::RecordRef> Allocate(uint64_t bytes);
  void Free(layout::RecordRef ref);  // the record's state is kFree already

  layout::Record* At(layout::RecordRef ref) const {
    return reinterpret_cast<layout::Record*>(chunks_[layout::ChunkOf(ref)] + layout::ByteInChunk(ref));
  }
  // Whether `ref` names the start of a slot that may be read; for references that come from clients.
  bool IsSlot(layout::RecordRef ref) const;

  // Recovery: adopts an inherited chunk, in order of chunk numbers; calls `visit` for each slot that is in use or should not look as
  // it does (kFree, with the sequence of a live record). What does not check out is put aside: nothing in it is visited, or given
  // out again. Returns what that is, in words.
  std::vector<std::string> AdoptChunk(const SharedSegment& segment, const std::function<void(layout::RecordRef)>& visit);
  // Whether a segment looks like the chunk of this number.
  static bool IsChunk(const SharedSegment& segment, uint32_t number);

  uint64_t SlotBytes(layout::RecordRef ref) const { return uint64_t{SlabStride(ref)} * layout::kRecordUnit; }

  uint64_t chunk_bytes() const { return chunks_.size() * layout::kChunkBytes; }

  static uint32_t StrideUnits(uint64_t bytes);

 private:
  absl::Status AddChunk();
  absl::Status AddSlab(uint32_t stride);
  uint32_t SlabStride(layout::RecordRef ref) const;
  void ForEachSlot(uint32_t chunk, uint32_t slab, uint32_t stride, const std::function<void(layout::RecordRef)>& visit) const;
  layout::ChunkHeader* HeaderOf(uint32_t chunk) const { return reinterpret_cast<layout::ChunkHeader*>(chunks_[chunk]); }

  layout::CatalogHeader* header_;
  SharedSegments* segments_;
  std::vector<char*> chunks_;
  uint32_t next_slab_ = layout::kSlabsPerChunk;  // in the last chunk
  std::array<std::vector<layout::RecordRef>, 321> free_;  // by stride
};

}  // namespace penstock::server
