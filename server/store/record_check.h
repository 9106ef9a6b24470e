// CheckRecord: what can be seen to be wrong with a record that an earlier node process left in the catalog.
//
// A record is written by the node alone, so one that does not check out is a broken invariant: a defect of this program or of
// the machine. It must not be served, and must not bring down the process that reads it, or the next, and the next.
//
// Threading:  any thread; reads the record only
// Ownership:  none
// Errors:     DATA_LOSS that names the field, its value and what it should be
// Limits:     looks at the record alone: whether its block is there and is its own shows when all are known (store_recovery.cc).
//             What may have any value (times, versions above 0, who asked) cannot be judged. Some 0.2 us
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "proto/layout/catalog_layout.h"

namespace penstock::server {

// Of a record that an earlier process has found wrong: it stays as it is, with its block. Only nodes know it.
inline constexpr uint8_t kDamagedState = 7;

struct RecordRules {
  const uint64_t* hash_key = nullptr;  // two words
  uint64_t slot_bytes = 0;             // of the slot that it lies in
  bool directory = false;              // StoreLimits::directory
  bool may_have_file = false;          // its bytes may lie in a spill directory: no block then (state 6)
};
absl::Status CheckRecord(const layout::Record& record, const RecordRules& rules);

}  // namespace penstock::server
