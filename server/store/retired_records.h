// RetiredRecords: records that are no longer live and wait until nobody pins them.
//
// The node's half of the hazard-pointer protocol: a record is put here after its sequence became even (seq_cst); a scan
// of all pin tables that starts later and does not find it proves that nobody reads it and nobody ever will. One scan
// serves all of them.
//
// Threading:  guarded by the store's mutex.
// Ownership:  the record and its block stay allocated while they are here.
// Errors:     none. Limits: a scan reads every pin word: about 5 us per 8192.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/layout/catalog_layout.h"
#include "server/store/session.h"

namespace penstock::server {

// PinWords of the node's own readers, and how many of each: adoption, and readers on other hosts.
using HeldPins = absl::flat_hash_map<uint64_t, uint32_t>;

class RetiredRecords {
 public:
  struct Entry {
    layout::RecordRef record;
    uint64_t live_seq;  // the odd sequence that readers may have pinned
    uint64_t nbytes;
  };

  void Add(const Entry& entry) {
    entries_.push_back(entry);
    bytes_ += entry.nbytes;
    ++unscanned_;
  }
  bool empty() const { return entries_.empty(); }
  size_t count() const { return entries_.size(); }
  uint64_t bytes() const { return bytes_; }
  size_t unscanned() const { return unscanned_; }
  // So many that a scan costs each of them some 20 ns; few, so that their blocks are used again while they are in the cache.
  size_t scan_after() const { return scan_after_; }
  const std::vector<Entry>& entries() const { return entries_; }

  // Scans the pin tables; calls `free` for each entry that neither a session nor `held` pins.
  void Scan(const std::vector<std::shared_ptr<Session>>& sessions, const HeldPins& held,
            const std::function<void(const Entry&)>& free);

 private:
  std::vector<Entry> entries_;
  uint64_t bytes_ = 0;
  size_t unscanned_ = 0;
  size_t scan_after_ = 256;
};

}  // namespace penstock::server
