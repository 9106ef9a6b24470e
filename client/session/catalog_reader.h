// CatalogReader: finds and pins records in the node's catalog (proto/layout/catalog_layout.h).
//
// Threading:  Find and Pin: any thread, lock-free once chunks and index are mapped
// Ownership:  the mappings are the SegmentMap's; index descriptions are kept until the reader ends,
//             since another thread may be in the middle of one
// Errors:     FAILED_PRECONDITION for another layout version; those of SegmentMap::Map
// Limits:     a warm Find is a hash, a probe, an exchange and a compare: no call, no allocation
#ifndef PENSTOCK_CLIENT_SESSION_CATALOG_READER_H_
#define PENSTOCK_CLIENT_SESSION_CATALOG_READER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session/deadline.h"
#include "client/session/pin_table.h"
#include "client/session/segment_map.h"
#include "proto/layout/catalog_layout.h"
#include "proto/layout/name_hash.h"
#include "transport/segment/mapping.h"

namespace penstock::client {

class CatalogReader {
 public:
  explicit CatalogReader(SegmentMap* segments) : segments_(segments) {}
  CatalogReader(const CatalogReader&) = delete;
  CatalogReader& operator=(const CatalogReader&) = delete;

  // Checks magic and layout version.
  absl::Status Open(Mapping header);

  enum class Outcome : uint8_t {
    kPinned,   // the slot holds the record; it is the caller's to clear
    kMissing,  // not in the index: only the node knows whether that is the truth
    kNotMapped,  // call Refresh, then again
    kClosed,   // the pin table's gate is shut: PinTable::WaitOpen, then again
    kChanging,  // the name changed under the reader too often in a row: ask the node
  };

  // Finds the present version of `name` and pins it with `slot`, whose word is 0 and is 0 again
  // unless the outcome is kPinned.
  Outcome Find(std::string_view name, const PinTable& pins, uint32_t slot,
               const layout::Record** record) const;

  // Pins the record with this sequence; kMissing when it is gone.
  Outcome Pin(layout::RecordRef ref, uint64_t seq, const PinTable& pins, uint32_t slot,
              const layout::Record** record) const;

  // Maps what Find or Pin lacked.
  absl::Status Refresh(const Deadline& deadline);
  absl::Status MapChunkOf(layout::RecordRef ref, const Deadline& deadline);

  const layout::CatalogHeader& header() const { return *header_; }
  bool opened() const { return header_ != nullptr; }
  // 32 hexadecimal digits, as in TensorInfo::nodes.
  const std::string& node_uuid() const { return node_uuid_; }

  std::mutex& mutex() { return mutex_; }  // for fork

 private:
  struct Index {
    uint32_t segment;
    uint64_t mask;
    const std::atomic<uint64_t>* entries;
  };

  const layout::Record* RecordAt(layout::RecordRef ref) const {
    const std::byte* chunk =
        chunks_[layout::ChunkOf(ref) % layout::kMaxChunks].load(std::memory_order_acquire);
    if (chunk == nullptr) return nullptr;
    return reinterpret_cast<const layout::Record*>(chunk + layout::ByteInChunk(ref));
  }

  SegmentMap* const segments_;
  Mapping mapping_;
  const layout::CatalogHeader* header_ = nullptr;
  std::string node_uuid_;
  uint64_t hash_key_[2] = {};
  std::atomic<const Index*> index_{nullptr};
  mutable std::atomic<uint32_t> wanted_chunk_{0};  // + 1; what a reader found missing
  std::array<std::atomic<const std::byte*>, layout::kMaxChunks> chunks_{};

  std::mutex mutex_;  // guards what follows
  std::vector<std::unique_ptr<const Index>> indexes_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_CATALOG_READER_H_
