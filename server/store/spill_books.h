// SpillBooks: what the store keeps in mind of its spill directory (store_spill.cc).
//
// A tensor whose bytes are there stays a record of the catalog, in the index and in lists: one that has no block, whose sequence is
// even, so that clients do not find it and ask the node, and whose `offset` is the number of its file.
//
// Threading:  guarded by the store's mutex, but for `dir` and the queues
// Ownership:  the store's; its threads end with Stop
// Errors:     none
// Limits:     one thread writes; two read, one of them what is small
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/layout/catalog_layout.h"
#include "server/spill/spill_dir.h"
#include "server/store/eviction_order.h"
#include "server/store/work_queue.h"

namespace penstock::server {

// Of a record whose bytes are in the spill directory. Only nodes know it: for clients it is a record that is not live.
inline constexpr auto kSpilledState = static_cast<layout::RecordState>(6);
static_assert(static_cast<uint8_t>(kSpilledState) > static_cast<uint8_t>(layout::RecordState::kPrepared));

inline bool IsSpilled(const layout::Record* record) { return record->state.load() == static_cast<uint8_t>(kSpilledState); }
// It, or what has become of it.
inline bool HasFile(const layout::Record* record) { return record->segment == 0 && record->nbytes > 0; }

struct SpillBooks {
  explicit SpillBooks(std::unique_ptr<SpillDir> opened) : dir(std::move(opened)) {}

  const std::unique_ptr<SpillDir> dir;
  uint64_t limit_bytes = 0;
  uint64_t next_number = 1;
  absl::flat_hash_set<uint64_t> files;  // of records
  EvictionOrder order;                  // what may go there

  absl::flat_hash_map<layout::RecordRef, uint64_t> leaving;  // are being written, and the bytes of their files
  uint64_t leaving_bytes = 0;
  absl::flat_hash_set<uint64_t> returning;  // are being read, or wait for memory
  uint64_t returning_bytes = 0;             // of their files
  struct Failure {
    absl::Status status;
    absl::Time until;  // what was asked for before then gets it
  };
  absl::flat_hash_map<uint64_t, Failure> failures;  // by file
  std::vector<uint64_t> removals;                   // files that nobody needs any more
  absl::Time full_until = absl::InfinitePast();     // the file system is
  bool said_full = false;
  bool stopping = false;

  uint64_t count = 0;
  uint64_t bytes = 0;
  uint64_t spills = 0;
  uint64_t spill_ins = 0;

  WorkQueue writer;
  std::array<WorkQueue, 2> readers;
};

}  // namespace penstock::server
