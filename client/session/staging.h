// StagingArea: hands out request blocks in the staging area of a ring.
//
// Next place first, round and round in the first MiB: a line that the node read just now is in its
// core's cache and slow to take back, one that has sunk to the shared cache meanwhile is not; and
// more than a MiB would not stay there. Who has more in flight gets the rest of the area. A block
// that stays long (a wait for a name) is no obstacle. Bookkeeping lies in private memory, which the
// node never sees.
//
// Threading:  one thread at a time (RingClient's mutex)
// Ownership:  positions only, never memory
// Errors:     none; no space is an answer
// Limits:     cost of Allocate grows with the blocks between the last one given out and the one taken
#ifndef PENSTOCK_CLIENT_SESSION_STAGING_H_
#define PENSTOCK_CLIENT_SESSION_STAGING_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace penstock::client {

class StagingArea {
 public:
  // Positions and sizes are in units.
  explicit StagingArea(uint32_t unit_count);

  std::optional<uint32_t> Allocate(uint32_t units);
  void Free(uint32_t position);

  uint32_t used_units() const { return used_units_; }

 private:
  static constexpr uint32_t kBusy = 1u << 31;
  static constexpr uint32_t kRotateUnits = (1u << 20) / 64;

  // The first place at or above `from`, which is the start of a range.
  std::optional<uint32_t> Take(uint32_t from, uint32_t units);

  // At the first unit of every range, free or busy: its length, and kBusy.
  std::vector<uint32_t> range_;
  uint32_t cursor_ = 0;  // start of a range, or the end
  uint32_t used_units_ = 0;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_STAGING_H_
