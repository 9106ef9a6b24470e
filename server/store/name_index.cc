#include "server/store/name_index.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "proto/layout/name_hash.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock::server {

using layout::RecordRef;

namespace {
constexpr uint64_t kMinCapacity = 16384;
constexpr auto kRelaxed = std::memory_order_relaxed;
}  // namespace

NameIndex::NameIndex(layout::CatalogHeader* header, SharedSegments* segments, const RecordSlabs* slabs)
    : header_(header), segments_(segments), slabs_(slabs) {}

absl::Status NameIndex::Start(uint64_t names, bool hidden) {
  hidden_ = hidden;
  return Rebuild(std::bit_ceil(std::max(kMinCapacity, names * 2)));
}

void NameIndex::Show() {
  hidden_ = false;
  header_->index_segment.store(segment_, std::memory_order_seq_cst);
}

uint64_t NameIndex::Hash(std::string_view name) const {
  return layout::HashName(name.data(), name.size(), header_->hash_key);
}

RecordRef NameIndex::Find(std::string_view name, uint64_t hash) const {
  for (uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
    const uint64_t entry = entries_[i].load(kRelaxed);
    if (entry == 0) return 0;
    const RecordRef ref = static_cast<RecordRef>(entry);
    if (ref == 0 || (entry >> 32) != (hash >> 32)) continue;
    const layout::Record* record = slabs_->At(ref);
    if (record->name_bytes == name.size() && std::memcmp(layout::RecordName(record), name.data(), name.size()) == 0) {
      return ref;
    }
  }
}

std::atomic<uint64_t>* NameIndex::Locate(uint64_t hash, RecordRef ref) const {
  const uint64_t want = layout::IndexEntry(hash, ref);
  for (uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
    const uint64_t entry = entries_[i].load(kRelaxed);
    if (entry == want) return &entries_[i];
    if (entry == 0) return nullptr;
  }
}

absl::Status NameIndex::Insert(uint64_t hash, RecordRef ref) {
  if ((used_ + 1) * 3 > (mask_ + 1) * 2) {
    // Many tombstones: the same size again; else twice the size.
    const uint64_t capacity = live_ * 2 > mask_ ? (mask_ + 1) * 2 : std::max(kMinCapacity, std::bit_ceil(live_ * 2 + 1));
    if (absl::Status s = Rebuild(capacity); !s.ok()) return s;
  }
  for (uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
    const uint64_t entry = entries_[i].load(kRelaxed);
    if (entry != 0 && entry != layout::kIndexTombstone) continue;
    if (entry == 0) ++used_;
    ++live_;
    entries_[i].store(layout::IndexEntry(hash, ref), std::memory_order_seq_cst);
    return absl::OkStatus();
  }
}

void NameIndex::Replace(uint64_t hash, RecordRef from, RecordRef to) {
  if (std::atomic<uint64_t>* entry = Locate(hash, from)) {
    entry->store(layout::IndexEntry(hash, to), std::memory_order_seq_cst);
  }
}

void NameIndex::Remove(uint64_t hash, RecordRef ref) {
  std::atomic<uint64_t>* entry = Locate(hash, ref);
  if (entry == nullptr) return;
  --live_;
  const std::atomic<uint64_t>* next = &entries_[((entry - entries_) + 1) & mask_];
  if (next->load(kRelaxed) == 0) {
    --used_;  // the end of its chain: no tombstone needed
    entry->store(0, std::memory_order_seq_cst);
  } else {
    entry->store(layout::kIndexTombstone, std::memory_order_seq_cst);
  }
}

absl::Status NameIndex::Rebuild(uint64_t capacity) {
  absl::StatusOr<SharedSegment> made = segments_->CreateSealed(
      {.kind = layout::SegmentKind::kIndex, .bytes = sizeof(layout::IndexHeader) + 8 * capacity, .populate = true});
  if (!made.ok()) return made.status();
  auto* index = static_cast<layout::IndexHeader*>(made->address);
  index->magic = layout::kCatalogMagic;
  index->mask = capacity - 1;
  std::atomic<uint64_t>* fresh = layout::IndexEntries(index);
  uint64_t count = 0;
  for (uint64_t i = 0; entries_ != nullptr && i <= mask_; ++i) {
    const uint64_t entry = entries_[i].load(kRelaxed);
    const RecordRef ref = static_cast<RecordRef>(entry);
    if (ref == 0) continue;
    uint64_t at = slabs_->At(ref)->name_hash & (capacity - 1);
    while (fresh[at].load(kRelaxed) != 0) at = (at + 1) & (capacity - 1);
    fresh[at].store(entry, kRelaxed);
    ++count;
  }
  const uint32_t old = segment_;
  entries_ = fresh;
  mask_ = capacity - 1;
  used_ = live_ = count;
  PENSTOCK_FAULT_POINT("node.index.rebuilt");
  segment_ = made->id;
  if (!hidden_) Show();
  PENSTOCK_FAULT_POINT("node.index.replaced");
  if (old != 0) segments_->Drop(old);  // clients that have mapped it keep their mapping
  return absl::OkStatus();
}

}  // namespace penstock::server
