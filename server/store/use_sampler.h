// UseSampler: which tensors local sessions use, by looking at their pin tables now and then.
//
// A get makes no call, so nobody tells the node. But a pin is a word in memory that it can read, and who lets go of one only
// clears the word's lowest bit (client/session/pin_table.h): such a *trace* names no live record and pins nothing. A thread takes its
// free slots in turn, so its last 32 gets or so are there to be seen; a tensor that is used all the time is seen at every look, one that
// is used once is seen once, or never. That is the approximation.
//
// Threading:  guarded by the store's mutex
// Ownership:  1 KiB for 8192 pins of a session
// Errors:     none: the words are hostile input, and only counted as hints
// Limits:     a look costs about 10 us per 8192 pins; it says how long it took, so that who calls it can keep it rare
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "server/store/retired_records.h"
#include "server/store/session.h"

namespace penstock::server {

class UseSampler {
 public:
  // At all pin tables. `used`: for each pin or trace, as a PinWord, in a group of 64 words that is not as it was at the last look.
  void Look(const std::vector<std::shared_ptr<Session>>& sessions, const HeldPins& held, const std::function<void(uint64_t pin)>& used);

  // At the last look.
  bool IsPinned(uint64_t pin) const { return pinned_.contains(pin); }
  absl::Time at() const { return at_; }
  absl::Duration took() const { return took_; }

 private:
  static constexpr uint32_t kGroup = 64;  // words
  absl::flat_hash_set<uint64_t> pinned_;
  absl::flat_hash_map<uint64_t, std::vector<uint64_t>> sums_;  // by session; of each group of words
  absl::Time at_ = absl::InfinitePast();
  absl::Duration took_ = absl::ZeroDuration();
};

}  // namespace penstock::server
