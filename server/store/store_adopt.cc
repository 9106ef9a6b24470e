// Adoption: small tensors leave the extents of sessions that have ended, so that these can be given back.
#include <cstring>
#include <utility>

#include "server/store/record_state.h"
#include "server/store/store.h"
#include "transport/copy/copy.h"
#include "transport/fault_point.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

// One extent at a time, each in its turn: one that cannot be emptied (a view, no room) keeps none waiting.
void Store::StartAdoption() {
  if (adoption_on_its_way_) return;
  std::vector<uint32_t> orphans = blocks_.Orphans(limits_.adopt_always);
  std::rotate(orphans.begin(), std::upper_bound(orphans.begin(), orphans.end(), last_adopted_), orphans.end());
  const auto next = std::find_if(orphans.begin(), orphans.end(), [this](uint32_t segment) { return HasLiveTensors(segment); });
  if (next == orphans.end()) return;
  last_adopted_ = *next;
  blocks_.Find(*next)->adopting = true;
  adoption_on_its_way_ = true;
  work_.Add([this, segment = *next] { Adopt(segment); });
}

bool Store::HasLiveTensors(uint32_t extent) const {
  auto it = extent_records_.find(extent);
  return it != extent_records_.end() &&
         std::any_of(it->second.begin(), it->second.end(), [this](RecordRef ref) { return (slabs_->At(ref)->seq.load() & 1) != 0; });
}

// Copies the live tensors of an extent into arenas, so that the extent can be given back.
void Store::Adopt(uint32_t segment) {
  std::vector<RecordRef> records;
  {
    std::lock_guard lock(mutex_);
    if (auto it = extent_records_.find(segment); it != extent_records_.end()) records.assign(it->second.begin(), it->second.end());
  }
  for (RecordRef ref : records) {
    if (!AdoptRecord(ref, segment)) break;  // no room: the extent stays as it is
  }
  std::lock_guard lock(mutex_);
  adoption_on_its_way_ = false;
  if (DataSegment* data = blocks_.Find(segment)) data->adopting = false;
  Changed();
}

bool Store::AdoptRecord(RecordRef ref, uint32_t segment) {
  Block target;
  uint64_t pin = 0;
  uint64_t nbytes = 0;
  const char* source = nullptr;
  for (int attempt = 0; target.address == nullptr; ++attempt) {
    uint64_t arena_bytes = 0;
    {
      std::lock_guard lock(mutex_);
      const Record* record = slabs_->At(ref);
      if (!(record->seq.load() & 1) || record->segment != segment) return true;  // gone meanwhile
      nbytes = record->nbytes;
      if (std::optional<Block> block = blocks_.AllocateInArena(nbytes)) {
        target = *block;
        source = blocks_.Address(record->segment, record->offset);
        pin = layout::PinWord(ref, record->seq.load());
        ++held_[pin];
        break;
      }
      if (attempt > 0 || arena_on_its_way_) return false;
      arena_bytes = blocks_.NextArenaBytes(nbytes);
      if (arena_bytes < BlockAllocator::BlockSize(nbytes) || !blocks_.ReserveBudget(arena_bytes)) return false;
      arena_on_its_way_ = true;
    }
    MakeArena(arena_bytes);  // this is the work thread
  }
  CopyBytes(target.address, source, nbytes);
  PENSTOCK_FAULT_POINT("node.adopt.copied");
  std::lock_guard lock(mutex_);
  if (auto held = held_.find(pin); --held->second == 0) held_.erase(held);
  const Record* record = slabs_->At(ref);
  const bool still_live = layout::PinWord(ref, record->seq.load()) == pin && (record->seq.load() & 1);
  absl::StatusOr<RecordRef> made = absl::CancelledError("");
  if (still_live) made = slabs_->Allocate(layout::RecordBytesOf(record));
  if (!made.ok()) {
    blocks_.Free(target.segment, target.offset, nbytes);
    return !still_live;
  }
  ReplaceBlock(ref, *made, target);
  ++adoptions_;
  return true;
}

void Store::CopyFields(RecordRef from, RecordRef to) {
  const Record* old_record = slabs_->At(from);
  Record* record = slabs_->At(to);
  const size_t head = offsetof(Record, name_hash);
  std::memcpy(reinterpret_cast<char*>(record) + head, reinterpret_cast<const char*>(old_record) + head,
              offsetof(Record, state) - head);
  std::memcpy(reinterpret_cast<char*>(record) + offsetof(Record, expires_ns),
              reinterpret_cast<const char*>(old_record) + offsetof(Record, expires_ns),
              layout::RecordBytesOf(record) - offsetof(Record, expires_ns));
}

// The same tensor and version in a new record with another block; the old record is retired.
void Store::ReplaceBlock(RecordRef from, RecordRef to, const Block& block) {
  CopyFields(from, to);
  Record* record = slabs_->At(to);
  record->segment = block.segment;
  record->offset = block.offset;
  record->flags |= layout::kRecordKernelImmutable;
  SetState(record, layout::RecordState::kDraft);  // dies with this process until it is live
  record->seq.fetch_add(1, std::memory_order_seq_cst);
  SetState(record, layout::RecordState::kLive);
  PENSTOCK_FAULT_POINT("node.adopt.live");
  TakePlace(from, to);
}

void Store::TakePlace(RecordRef from, RecordRef to) {
  const Record* record = slabs_->At(to);
  if (record->cluster_state != 0) {
    directory_->Replace(from, to);
    if (auto asked = asked_.extract(from)) {
      asked.key() = to;
      asked_.insert(std::move(asked));
    }
    if (directory_->IsAside(to)) return RetireRecord(from);
  }
  index_->Replace(record->name_hash, from, to);
  names_->Replace(from, to);
  Retire(from);
  CountLive(to);
}

}  // namespace penstock::server
