#include "client/session/catalog_reader.h"

#include <utility>

#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "transport/fault_point.h"

namespace penstock::client {
namespace {

using layout::Record;
using layout::RecordRef;

constexpr int kMaxRestarts = 64;

}  // namespace

absl::Status CatalogReader::Open(Mapping header) {
  if (header.size() < 2 * sizeof(uint64_t)) {
    return absl::InternalError("the node's catalog header is too small");
  }
  const auto* candidate = reinterpret_cast<const layout::CatalogHeader*>(header.data());
  if (candidate->magic != layout::kCatalogMagic ||
      candidate->layout_version != layout::kLayoutVersion) {
    return absl::FailedPreconditionError(
        StrCat("the node's catalog has layout version ", candidate->layout_version,
               ", this client ", layout::kLayoutVersion, ": update the older one"));
  }
  if (header.size() < sizeof(layout::CatalogHeader)) {
    return absl::InternalError("the node's catalog header is too small");
  }
  mapping_ = std::move(header);
  header_ = reinterpret_cast<const layout::CatalogHeader*>(mapping_.data());
  memcpy(hash_key_, header_->hash_key, sizeof(hash_key_));
  node_uuid_ = UuidText(header_->node_uuid);
  return absl::OkStatus();
}

CatalogReader::Outcome CatalogReader::Pin(RecordRef ref, uint64_t seq, const PinTable& pins,
                                          uint32_t slot, const Record** record) const {
  const Record* candidate = RecordAt(ref);
  if (candidate == nullptr) {
    wanted_chunk_.store(layout::ChunkOf(ref) + 1);
    return Outcome::kNotMapped;
  }
  std::atomic<uint64_t>& word = pins.Word(slot);
  word.exchange(layout::PinWord(ref, seq), std::memory_order_seq_cst);
  PENSTOCK_FAULT_POINT("client.get.pinning");
  if (pins.gate() != 0) {
    word.store(0, std::memory_order_release);
    return Outcome::kClosed;
  }
  if (candidate->seq.load(std::memory_order_seq_cst) != seq) {
    word.store(0, std::memory_order_release);
    return Outcome::kMissing;
  }
  PENSTOCK_FAULT_POINT("client.get.pinned");
  *record = candidate;
  return Outcome::kPinned;
}

CatalogReader::Outcome CatalogReader::Find(std::string_view name, const PinTable& pins,
                                           uint32_t slot, const Record** record) const {
  const uint64_t hash = layout::HashName(name.data(), name.size(), hash_key_);
  for (int restart = 0; restart < kMaxRestarts; ++restart) {
    const Index* index = index_.load(std::memory_order_acquire);
    if (index == nullptr ||
        index->segment != header_->index_segment.load(std::memory_order_seq_cst)) {
      return Outcome::kNotMapped;
    }
    bool changed = false;
    uint64_t at = hash & index->mask;
    for (uint64_t probes = 0; probes <= index->mask; ++probes, at = (at + 1) & index->mask) {
      const uint64_t entry = index->entries[at].load(std::memory_order_seq_cst);
      if (entry == 0) break;
      if ((entry ^ hash) >> 32 != 0) continue;
      const auto ref = static_cast<RecordRef>(entry);
      if (ref == 0) continue;
      const Record* candidate = RecordAt(ref);
      if (candidate == nullptr) {
        wanted_chunk_.store(layout::ChunkOf(ref) + 1);
        return Outcome::kNotMapped;
      }
      const uint64_t seq = candidate->seq.load(std::memory_order_seq_cst);
      if ((seq & 1) == 0) {
        changed = true;
        continue;
      }
      const Outcome pinned = Pin(ref, seq, pins, slot, record);
      if (pinned == Outcome::kMissing) {
        changed = true;
        continue;
      }
      if (pinned != Outcome::kPinned) return pinned;
      if (candidate->name_bytes == name.size() &&
          memcmp(layout::RecordName(candidate), name.data(), name.size()) == 0) {
        return Outcome::kPinned;
      }
      pins.Word(slot).store(0, std::memory_order_release);
    }
    // An index that was replaced meanwhile may not have known the name; so may one in which the
    // name's record was just giving way to the next.
    if (!changed && index->segment == header_->index_segment.load(std::memory_order_seq_cst)) {
      return Outcome::kMissing;
    }
  }
  return Outcome::kChanging;
}

absl::Status CatalogReader::MapChunkOf(RecordRef ref, const Deadline& deadline) {
  const uint32_t chunk = layout::ChunkOf(ref);
  if (chunk >= layout::kMaxChunks) {
    return absl::InternalError(StrCat("record ", ref, " is outside the catalog"));
  }
  if (chunks_[chunk].load(std::memory_order_acquire) != nullptr) return absl::OkStatus();
  const uint32_t segment = header_->chunk_segment[chunk].load(std::memory_order_acquire);
  uint64_t bytes = 0;
  const absl::StatusOr<const std::byte*> address = segments_->Map(segment, deadline, &bytes);
  if (!address.ok()) return address.status();
  if (bytes < layout::kChunkBytes) {
    return absl::InternalError(StrCat("record chunk ", chunk, " has only ", bytes, " bytes"));
  }
  chunks_[chunk].store(*address, std::memory_order_release);
  return absl::OkStatus();
}

absl::Status CatalogReader::Refresh(const Deadline& deadline) {
  if (const uint32_t wanted = wanted_chunk_.exchange(0); wanted != 0) {
    const RecordRef ref = (wanted - 1) * layout::kUnitsPerChunk;
    if (absl::Status s = MapChunkOf(ref, deadline); !s.ok()) return s;
  }
  const uint32_t segment = header_->index_segment.load(std::memory_order_seq_cst);
  if (const Index* now = index_.load(); now != nullptr && now->segment == segment) {
    return absl::OkStatus();
  }
  uint64_t bytes = 0;
  const absl::StatusOr<const std::byte*> address = segments_->Map(segment, deadline, &bytes);
  if (!address.ok()) {
    // Replaced once more while we asked: the caller looks again.
    if (header_->index_segment.load(std::memory_order_seq_cst) != segment) return absl::OkStatus();
    return address.status();
  }
  const auto* index = reinterpret_cast<const layout::IndexHeader*>(*address);
  const uint64_t capacity = index->mask + 1;
  if (capacity == 0 || (capacity & index->mask) != 0 ||
      capacity > (bytes - sizeof(layout::IndexHeader)) / 8) {
    if (header_->index_segment.load(std::memory_order_seq_cst) != segment) return absl::OkStatus();
    return absl::InternalError(StrCat("the catalog's index has capacity ", capacity, " in ", bytes,
                                      " bytes"));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  indexes_.push_back(std::unique_ptr<const Index>(
      new Index{segment, index->mask, layout::IndexEntries(index)}));
  index_.store(indexes_.back().get(), std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace penstock::client
