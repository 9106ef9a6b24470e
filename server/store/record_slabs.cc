#include "server/store/record_slabs.h"

#include <algorithm>

#include "proto/strcat.h"
#include "server/store/record_check.h"
#include "transport/fault_point.h"

namespace penstock::server {

using layout::RecordRef;

RecordSlabs::RecordSlabs(layout::CatalogHeader* header, SharedSegments* segments)
    : header_(header), segments_(segments) {}

uint32_t RecordSlabs::StrideUnits(uint64_t bytes) {
  const uint32_t units = static_cast<uint32_t>((bytes + layout::kRecordUnit - 1) / layout::kRecordUnit);
  if (units <= 16) return units;
  uint32_t step = 4;  // 16..32 in steps of 4, 32..64 of 8, ...
  while (units > step * 8) step *= 2;
  return (units + step - 1) / step * step;
}

absl::StatusOr<RecordRef> RecordSlabs::Allocate(uint64_t bytes) {
  const uint32_t stride = StrideUnits(bytes);
  if (stride >= free_.size()) {
    return absl::InvalidArgumentError(StrCat("record of ", bytes, " bytes: name, shape and metadata are too large"));
  }
  std::vector<RecordRef>& free = free_[stride];
  if (free.empty()) {
    if (absl::Status s = AddSlab(stride); !s.ok()) return s;
  }
  const RecordRef ref = free.back();
  free.pop_back();
  return ref;
}

void RecordSlabs::Free(RecordRef ref) { free_[SlabStride(ref)].push_back(ref); }

uint32_t RecordSlabs::SlabStride(RecordRef ref) const {
  return HeaderOf(layout::ChunkOf(ref))->slab_stride_units[layout::ByteInChunk(ref) / layout::kSlabBytes];
}

bool RecordSlabs::IsSlot(RecordRef ref) const {
  if (ref == 0 || layout::ChunkOf(ref) >= chunks_.size()) return false;
  const uint64_t byte = layout::ByteInChunk(ref);
  const uint32_t stride = SlabStride(ref);
  if (stride == 0) return false;
  const uint64_t slab_start = byte / layout::kSlabBytes * layout::kSlabBytes;
  const uint64_t first = slab_start == 0 ? layout::kChunkHeaderBytes : slab_start;
  if (byte < first || (byte - first) % (stride * layout::kRecordUnit) != 0) return false;
  if (byte + stride * layout::kRecordUnit > slab_start + layout::kSlabBytes) return false;
  return At(ref)->state.load(std::memory_order_relaxed) != kDamagedState;
}

void RecordSlabs::ForEachSlot(uint32_t chunk, uint32_t slab, uint32_t stride,
                              const std::function<void(RecordRef)>& visit) const {
  const uint64_t end = (slab + 1) * layout::kSlabBytes;
  const uint64_t step = stride * layout::kRecordUnit;
  for (uint64_t byte = slab == 0 ? layout::kChunkHeaderBytes : slab * layout::kSlabBytes; byte + step <= end; byte += step) {
    visit(static_cast<RecordRef>(chunk * layout::kUnitsPerChunk + byte / layout::kRecordUnit));
  }
}

absl::Status RecordSlabs::AddSlab(uint32_t stride) {
  if (next_slab_ == layout::kSlabsPerChunk) {
    if (absl::Status s = AddChunk(); !s.ok()) return s;
  }
  const uint32_t chunk = static_cast<uint32_t>(chunks_.size()) - 1;
  const uint32_t slab = next_slab_++;
  HeaderOf(chunk)->slab_stride_units[slab] = static_cast<uint16_t>(stride);
  std::vector<RecordRef>& free = free_[stride];
  const size_t old_size = free.size();
  ForEachSlot(chunk, slab, stride, [&](RecordRef ref) { free.push_back(ref); });
  std::reverse(free.begin() + old_size, free.end());  // hand out ascending addresses
  return absl::OkStatus();
}

absl::Status RecordSlabs::AddChunk() {
  if (chunks_.size() == layout::kMaxChunks) {
    return absl::ResourceExhaustedError(StrCat("the catalog is full: ", chunks_.size(), " chunks of 4 MiB"));
  }
  absl::StatusOr<SharedSegment> made = segments_->CreateSealed(
      {.kind = layout::SegmentKind::kCatalogChunk, .bytes = layout::kChunkBytes, .populate = true});
  if (!made.ok()) return made.status();
  const uint32_t number = static_cast<uint32_t>(chunks_.size());
  chunks_.push_back(static_cast<char*>(made->address));
  *HeaderOf(number) = {.magic = layout::kCatalogMagic, .layout_version = layout::kLayoutVersion, .chunk_number = number};
  header_->chunk_segment[number].store(made->id, std::memory_order_seq_cst);
  PENSTOCK_FAULT_POINT("node.chunk.named");
  header_->chunk_count.store(number + 1, std::memory_order_seq_cst);
  next_slab_ = 0;
  return absl::OkStatus();
}

bool RecordSlabs::IsChunk(const SharedSegment& segment, uint32_t number) {
  const auto* header = static_cast<const layout::ChunkHeader*>(segment.address);
  return segment.bytes >= layout::kChunkBytes && header->magic == layout::kCatalogMagic && header->layout_version == layout::kLayoutVersion &&
         header->chunk_number == number;
}

std::vector<std::string> RecordSlabs::AdoptChunk(const SharedSegment& segment, const std::function<void(RecordRef)>& visit) {
  const uint32_t number = static_cast<uint32_t>(chunks_.size());
  chunks_.push_back(static_cast<char*>(segment.address));
  layout::ChunkHeader* header = HeaderOf(number);
  std::vector<std::string> wrong;
  if (!IsChunk(segment, number)) {
    wrong.push_back(StrCat("catalog chunk ", number, " (segment ", segment.id, "): its header is not one: the records in it are not known"));
    std::fill(std::begin(header->slab_stride_units), std::end(header->slab_stride_units), uint16_t{0});
    next_slab_ = layout::kSlabsPerChunk;
    return wrong;
  }
  next_slab_ = 0;
  for (uint32_t slab = 0; slab < layout::kSlabsPerChunk; ++slab) {
    const uint32_t stride = header->slab_stride_units[slab];
    if (stride == 0) continue;
    next_slab_ = slab + 1;
    if (stride >= free_.size()) {
      wrong.push_back(StrCat("catalog chunk ", number, " slab ", slab, ": stride ", stride, " is above ", free_.size() - 1, ": the records in it are not known"));
      header->slab_stride_units[slab] = 0;  // so nobody's reference leads there
      continue;
    }
    ForEachSlot(number, slab, stride, [&](RecordRef ref) {
      const layout::Record* record = At(ref);
      const bool free = record->state.load() == static_cast<uint8_t>(layout::RecordState::kFree);
      if (free && !(record->seq.load() & 1)) {
        free_[stride].push_back(ref);
      } else {
        visit(ref);
      }
    });
  }
  return wrong;
}

}  // namespace penstock::server
