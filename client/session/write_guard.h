// WriteGuard: takes the write access to blocks of a writable mapping away, and gives it back.
//
// mprotect visits every page table entry: 1 GiB of 4 KiB pages costs as much as copying it does.
// So the entries of a large block are moved, as whole tables, to a spare range that nobody knows;
// the block's own range stays mapped, read-only and without entries, and they move back when a new
// draft gets the block.
//
// Threading:  one thread at a time; other threads may use the memory meanwhile
// Ownership:  owns the spare range; borrows the mapping, which must outlive every call
// Errors:     Unprotect: RESOURCE_EXHAUSTED (too many mappings): the range must not be used then.
//             Where entries cannot be moved (Linux before 5.13, hugetlb), mprotect does it
// Limits:     address space as large as the mapping, from the first large block on
#ifndef PENSTOCK_CLIENT_SESSION_WRITE_GUARD_H_
#define PENSTOCK_CLIENT_SESSION_WRITE_GUARD_H_

#include <cstddef>
#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "transport/segment/mapping.h"

namespace penstock::client {

class WriteGuard {
 public:
  // From here up entries are moved; below there are too few whole tables to move.
  static constexpr uint64_t kMoveBytes = uint64_t{4} << 20;

  WriteGuard() = default;
  WriteGuard(const WriteGuard&) = delete;
  WriteGuard& operator=(const WriteGuard&) = delete;
  ~WriteGuard();

  // Whole pages of `writable`, always the same mapping. After Protect returns, a write to them
  // through the mapping faults.
  void Protect(const Mapping& writable, uint64_t first, uint64_t length);
  // Lifts what Protect did inside the range; the pages around it stay as they are.
  absl::Status Unprotect(const Mapping& writable, uint64_t first, uint64_t length);

  // In a forked child, which inherits neither the mapping nor the spare range.
  void ChildReset();

 private:
  bool MoveAway(const Mapping& writable, uint64_t first, uint64_t length);
  bool MoveBack(const Mapping& writable, uint64_t first, uint64_t last);

  bool used_ = false;
  bool can_move_ = true;
  char* reserved_ = nullptr;  // what was mapped for the spare range
  uint64_t reserved_bytes_ = 0;
  char* spare_ = nullptr;               // inside it, placed as the mapping is in its 2 MiB
  std::map<uint64_t, uint64_t> moved_;  // first byte to end, in the spare range
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_WRITE_GUARD_H_
