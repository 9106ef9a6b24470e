// Ids, versions and times of the directory.
//
// Threading:  plain values
// Ownership:  none
// Errors:     none
// Limits:     a NodeId names *memory* (v1::Member.boot, random): a node that has lost its memory comes back under a new one, whatever
//             its uuid
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <utility>

namespace penstock::server::directory {

using NodeId = uint64_t;     // 0 = none
using Term = uint64_t;       // the number of a cluster view
using Partition = uint32_t;  // 0 .. partition_count - 1
// Nanoseconds of a clock that never goes back and runs at the same rate on every host. Always passed in.
using Time = int64_t;

constexpr Time kMillisecond = 1'000'000;
constexpr Time kSecond = 1000 * kMillisecond;

// Order: by term, then by number. Users see the number.
struct Version {
  Term term = 0;
  uint64_t number = 0;
  auto operator<=>(const Version&) const = default;
};

// Position of one change of an entry in the history of its partition: what a home changes later has a larger stamp.
struct Stamp {
  Term term = 0;
  uint64_t change = 0;
  auto operator<=>(const Stamp&) const = default;
};

// A put or delete: `session` is drawn at random by every start of a node process (and stands in the view), `count` grows.
struct OpId {
  uint64_t session = 0;
  uint64_t count = 0;
  auto operator<=>(const OpId&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, const OpId& op) {
    return H::combine(std::move(state), op.session, op.count);
  }
};

}  // namespace penstock::server::directory
