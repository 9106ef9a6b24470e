// HeldLeases: the leases that this node holds on the names of one other node, of which it has copies.
//
// A recall may overtake the answer that brings the lease, for they come over different calls. So a lease counts only if its
// name was not called back since it was asked for. When the home is not heard any more, all leases end: should it have lost
// its memory with its process, it does not know of them.
//
// Threading:  any thread.
// Ownership:  the store must outlive it.
// Errors:     none: what is not taken is not served, and asked for again.
// Limits:     remembers a recall for kRemember, longer than any lease.
#pragma once

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/store/store.h"
#include "transport/monotonic.h"

namespace penstock::server {

class HeldLeases {
 public:
  static constexpr absl::Duration kRemember = absl::Seconds(60);
  static constexpr absl::Duration kMargin = absl::Milliseconds(20);  // clients look at a clock that is a tick or two behind

  explicit HeldLeases(Store* store) : store_(store) {}

  // Of a copy here, asked for at `asked` (MonotonicNow).
  void Take(const std::string& name, const Published& copy, absl::Time asked, absl::Duration lease) {
    std::lock_guard lock(mutex_);
    Sweep();
    Name& known = names_[name];
    if (std::max(known.recalled, all_recalled_) >= asked) return;
    known.until = asked + lease - kMargin;
    store_->LeaseCopy(copy.record, copy.record_seq, known.until);
  }

  // Returns when clients are not served these names any more without their home being asked.
  void Obey(const std::vector<std::string>& recalled) {
    std::lock_guard lock(mutex_);
    for (const std::string& name : recalled) {
      names_[name].recalled = MonotonicNow();
      store_->EndCopyLease(name);
    }
  }

  void EndAll() {
    std::lock_guard lock(mutex_);
    all_recalled_ = MonotonicNow();
    for (const auto& [name, known] : names_) {
      if (known.until >= all_recalled_) store_->EndCopyLease(name);
    }
    names_.clear();
  }

 private:
  struct Name {
    absl::Time recalled = absl::InfinitePast();
    absl::Time until = absl::InfinitePast();
  };

  void Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (names_.size() < sweep_at_) return;
    const absl::Time now = MonotonicNow();
    absl::erase_if(names_, [now](const auto& entry) { return entry.second.recalled < now - kRemember && entry.second.until < now; });
    sweep_at_ = std::max<size_t>(1024, 2 * names_.size());
  }

  Store* const store_;
  std::mutex mutex_;
  absl::flat_hash_map<std::string, Name> names_ ABSL_GUARDED_BY(mutex_);
  absl::Time all_recalled_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  size_t sweep_at_ ABSL_GUARDED_BY(mutex_) = 1024;
};

}  // namespace penstock::server
