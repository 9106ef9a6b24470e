// NameIndex: the catalog's shared hash index from names to records.
//
// Clients probe it without a lock; to them it is a hint. It is replaced by one of twice the size in a new segment when
// it is 2/3 full (tombstones included); clients go on with the old one, miss, look at the header and map the new one.
//
// After a restart a fresh one is made, for the old one cannot be trusted to be whole; local gets go on with the old one meanwhile.
//
// Threading:  one writer at a time (the store's mutex).
// Ownership:  index segments are the warden's; replaced ones are dropped when the node restarts.
// Errors:     ResourceExhausted when a bigger index cannot be made: nothing is inserted.
// Limits:     8 bytes an entry, at least 16384 entries.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "proto/layout/catalog_layout.h"
#include "server/store/record_slabs.h"
#include "server/store/shared_segments.h"

namespace penstock::server {

class NameIndex {
 public:
  NameIndex(layout::CatalogHeader* header, SharedSegments* segments, const RecordSlabs* slabs);

  // Makes the first index, for at least `names` names. hidden: clients go on with that of an earlier process until Show. To them it
  // is a hint like any other: what it lacks they ask for, what it knows of old the records tell.
  absl::Status Start(uint64_t names, bool hidden = false);
  void Show();

  uint64_t Hash(std::string_view name) const;
  layout::RecordRef Find(std::string_view name, uint64_t hash) const;  // 0 = none
  absl::Status Insert(uint64_t hash, layout::RecordRef ref);
  void Replace(uint64_t hash, layout::RecordRef from, layout::RecordRef to);
  void Remove(uint64_t hash, layout::RecordRef ref);

  uint64_t bytes() const { return sizeof(layout::IndexHeader) + 8 * (mask_ + 1); }

 private:
  absl::Status Rebuild(uint64_t capacity);
  std::atomic<uint64_t>* Locate(uint64_t hash, layout::RecordRef ref) const;

  layout::CatalogHeader* header_;
  SharedSegments* segments_;
  const RecordSlabs* slabs_;
  std::atomic<uint64_t>* entries_ = nullptr;
  uint64_t mask_ = 0;
  uint64_t used_ = 0;  // entries that are not empty, tombstones included
  uint64_t live_ = 0;
  uint32_t segment_ = 0;  // 0 = none
  bool hidden_ = false;
};

}  // namespace penstock::server
