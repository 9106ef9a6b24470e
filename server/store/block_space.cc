#include "server/store/block_space.h"

#include <algorithm>

namespace penstock::server {

namespace {
constexpr uint64_t kMiB = uint64_t{1} << 20;
uint64_t RoundUp(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }
}  // namespace

BlockPolicy::BlockPolicy(uint64_t memory)
    : memory_bytes(memory),
      arena_bytes(std::clamp(memory / 16 / (4 * kMiB) * (4 * kMiB), 4 * kMiB, 64 * kMiB)),
      first_extent_bytes(2 * kMiB),
      max_extent_bytes(std::clamp(memory / 8 / (2 * kMiB) * (2 * kMiB), 2 * kMiB, 256 * kMiB)) {}

std::optional<Block> BlockSpace::AllocateInArena(uint64_t nbytes) {
  if (nbytes == 0) return Block{};
  for (size_t tried = 0; tried < arenas_.size(); ++tried) {
    const size_t i = (arena_hint_ + tried) % arenas_.size();
    DataSegment* arena = arenas_[i];
    if (arena->frozen) continue;
    if (std::optional<uint64_t> offset = arena->allocator.Allocate(nbytes)) {
      arena_hint_ = i;
      block_bytes_ += BlockAllocator::BlockSize(nbytes);
      return Block{arena->shared.id, *offset, static_cast<char*>(arena->shared.address) + *offset};
    }
  }
  return std::nullopt;
}

std::optional<Block> BlockSpace::AllocateInExtent(uint64_t session, uint64_t nbytes) {
  if (nbytes == 0) return Block{};
  for (auto& [id, extent] : data_) {
    if (extent->arena || extent->owner != session) continue;
    if (std::optional<uint64_t> offset = extent->allocator.Allocate(nbytes)) {
      block_bytes_ += BlockAllocator::BlockSize(nbytes);
      return Block{id, *offset, static_cast<char*>(extent->shared.address) + *offset};
    }
  }
  return std::nullopt;
}

void BlockSpace::Free(uint32_t segment, uint64_t offset, uint64_t nbytes) {
  if (segment == 0) return;
  DataSegment* data = Find(segment);
  if (data == nullptr) return;
  data->allocator.Free(offset, nbytes);
  block_bytes_ -= BlockAllocator::BlockSize(nbytes);
}

absl::Status BlockSpace::Reserve(uint32_t segment, uint64_t offset, uint64_t nbytes) {
  if (absl::Status s = Find(segment)->allocator.Reserve(offset, nbytes); !s.ok()) return s;
  block_bytes_ += BlockAllocator::BlockSize(nbytes);
  return absl::OkStatus();
}

void BlockSpace::FreezeAll() {
  for (auto& [id, data] : data_) data->frozen = true;
}

DataSegment* BlockSpace::Add(const SharedSegment& shared, uint64_t owner) {
  auto data = std::make_unique<DataSegment>(DataSegment{.shared = shared, .allocator = BlockAllocator(shared.bytes)});
  data->owner = owner;
  data->arena = shared.kind == layout::SegmentKind::kArena;
  DataSegment* added = data.get();
  if (added->arena) arenas_.push_back(added);
  segment_bytes_ += shared.bytes;
  data_[shared.id] = std::move(data);
  return added;
}

DataSegment* BlockSpace::Find(uint32_t segment) {
  auto it = data_.find(segment);
  return it == data_.end() ? nullptr : it->second.get();
}

char* BlockSpace::Address(uint32_t segment, uint64_t offset) {
  DataSegment* data = Find(segment);
  return data == nullptr ? nullptr : static_cast<char*>(data->shared.address) + offset;
}

uint64_t BlockSpace::unreserved_bytes() const {
  const uint64_t taken = segment_bytes_ + leaving_bytes_ + reserved_bytes_;
  return taken >= policy_.memory_bytes ? 0 : policy_.memory_bytes - taken;
}

bool BlockSpace::ReserveBudget(uint64_t bytes) {
  if (bytes > unreserved_bytes()) return false;
  reserved_bytes_ += bytes;
  return true;
}

void BlockSpace::CancelReservation(uint64_t bytes) { reserved_bytes_ -= std::min(reserved_bytes_, bytes); }

uint64_t BlockSpace::NextExtentBytes(uint64_t nbytes, uint64_t held_bytes) const {
  const uint64_t grown = std::clamp(held_bytes, policy_.first_extent_bytes, policy_.max_extent_bytes);
  const uint64_t needed = RoundUp(BlockAllocator::BlockSize(nbytes), 2 * kMiB);
  const uint64_t wanted = std::max(RoundUp(grown, 2 * kMiB), needed);
  if (wanted <= unreserved_bytes()) return wanted;
  // Near the limit take what is left rather than refuse; a little below 2 MiB steps too.
  return std::max(needed > unreserved_bytes() ? RoundUp(BlockAllocator::BlockSize(nbytes), 4096) : needed,
                  std::min(wanted, unreserved_bytes() / (2 * kMiB) * (2 * kMiB)));
}

uint64_t BlockSpace::NextArenaBytes(uint64_t nbytes) const {
  const uint64_t needed = RoundUp(BlockAllocator::BlockSize(nbytes), 2 * kMiB);
  const uint64_t wanted = std::max(policy_.arena_bytes, needed);
  if (wanted <= unreserved_bytes()) return wanted;
  return std::max(needed, unreserved_bytes() / (2 * kMiB) * (2 * kMiB));
}

std::vector<uint32_t> BlockSpace::EmptySegments(uint64_t keep_arena_bytes, bool of_live_sessions) const {
  std::vector<uint32_t> empty;
  uint64_t kept = 0;
  for (const auto& [id, data] : data_) {
    if (!data->allocator.empty() || data->adopting || data->frozen) continue;
    if (data->arena && kept < keep_arena_bytes && (kept == 0 || kept + data->shared.bytes <= keep_arena_bytes)) {
      kept += data->shared.bytes;
      continue;
    }
    if (!data->arena && data->owner != 0 && !of_live_sessions) continue;
    empty.push_back(id);
  }
  return empty;
}

uint64_t BlockSpace::ExtentBytesOf(uint64_t session) const {
  uint64_t bytes = 0;
  for (const auto& [id, data] : data_) {
    if (!data->arena && data->owner == session) bytes += data->shared.bytes;
  }
  return bytes;
}

std::vector<std::pair<uint32_t, std::vector<uint64_t>>> BlockSpace::Leaving() const {
  std::vector<std::pair<uint32_t, std::vector<uint64_t>>> leaving;
  for (const auto& [id, data] : leaving_) leaving.emplace_back(id, std::vector<uint64_t>(data->holders.begin(), data->holders.end()));
  return leaving;
}

std::vector<uint64_t> BlockSpace::Leave(uint32_t segment) {
  auto it = data_.find(segment);
  if (it == data_.end()) return {};
  DataSegment* data = it->second.get();
  std::vector<uint64_t> told(data->holders.begin(), data->holders.end());
  segment_bytes_ -= data->shared.bytes;
  leaving_bytes_ += data->shared.bytes;
  std::erase(arenas_, data);
  leaving_[segment] = std::move(it->second);
  data_.erase(it);
  if (told.empty()) Erase(segment, data);
  return told;
}

void BlockSpace::HolderGone(uint32_t segment, uint64_t session) {
  if (DataSegment* data = Find(segment)) {
    data->holders.erase(session);
    return;
  }
  auto it = leaving_.find(segment);
  if (it == leaving_.end()) return;
  it->second->holders.erase(session);
  if (it->second->holders.empty()) Erase(segment, it->second.get());
}

void BlockSpace::Erase(uint32_t segment, DataSegment* data) {
  leaving_bytes_ -= data->shared.bytes;
  leaving_.erase(segment);
  segments_->Drop(segment);
}

void BlockSpace::SessionEnded(uint64_t session) {
  std::vector<uint32_t> ids;
  for (auto& [id, data] : data_) {
    data->holders.erase(session);
    if (data->owner == session) data->owner = 0;
  }
  for (auto& [id, data] : leaving_) ids.push_back(id);
  for (uint32_t id : ids) HolderGone(id, session);
}

std::vector<uint32_t> BlockSpace::Orphans(bool all) const {
  std::vector<uint32_t> orphans;
  for (const auto& [id, data] : data_) {
    if (data->arena || data->adopting || data->allocator.empty()) continue;
    if (data->owner != 0 && !all) continue;
    if (all || data->allocator.used_bytes() * 2 < data->shared.bytes) orphans.push_back(id);
  }
  return orphans;
}

uint64_t BlockSpace::arena_free_bytes() const {
  uint64_t free = 0;
  for (const DataSegment* arena : arenas_) free += arena->frozen ? 0 : arena->allocator.free_bytes();
  return free;
}

}  // namespace penstock::server
