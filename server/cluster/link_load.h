// LinkLoad: how busy this host's network is with what its node moves.
//
// Threading:  one thread at a time
// Ownership:  none
// Errors:     none: where no interface tells its speed, it is taken for 10 Gb/s
// Limits:     of what others read by RDMA from this host nothing is known here
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace penstock::server {

class LinkLoad {
 public:
  // Of the fastest interface that is up; 0: find it out.
  explicit LinkLoad(uint64_t bytes_per_second = 0);

  // 0 idle .. 1: since the last call. Both numbers count since the node began.
  double Busy(uint64_t sent_bytes, uint64_t received_bytes, absl::Time now);

 private:
  uint64_t bytes_per_second_;
  uint64_t sent_ = 0, received_ = 0;
  absl::Time at_ = absl::InfinitePast();
};

}  // namespace penstock::server
