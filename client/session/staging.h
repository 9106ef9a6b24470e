// StagingArea: hands out request blocks in the staging area of a ring.
//
// Lowest place first: a client that puts one tensor after another uses the same few cache lines
// again and again, one that has thousands in flight walks through the area, and a block that stays
// long (a wait for a name) is no obstacle. Bookkeeping lies in private memory, which the node never
// sees.
//
// Threading:  one thread at a time (RingClient's mutex)
// Ownership:  positions only, never memory
// Errors:     none; no space is an answer
// Limits:     cost of Allocate grows with the blocks between the lowest free place and the one taken
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

  // At the first unit of every range, free or busy: its length, and kBusy.
  std::vector<uint32_t> range_;
  uint32_t lowest_free_ = 0;  // start of a range; everything below is busy
  uint32_t used_units_ = 0;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_STAGING_H_
