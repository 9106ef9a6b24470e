// Maintenance: expiry, reclaiming and the like, until the node stops. Wakes when something changed or is due, so an idle node sleeps.
//
// Threading:  a thread of its own
// Ownership:  the store and the sessions must outlive it
// Errors:     none
// Limits:     looks at most every 100 ms
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "server/remote/remote_sessions.h"
#include "server/store/store.h"
#include "transport/monotonic.h"

namespace penstock::server {

class Maintenance {
 public:
  Maintenance(Store* store, RemoteSessions* remote) : store_(store), thread_([this, store, remote] {
    while (!stopping_.load()) {
      const uint64_t epoch = store->change_epoch();
      remote->Expire(MonotonicNow());
      const absl::Duration due = store->Maintain();
      store->WaitForChange(epoch, std::min(due, remote->count() > 0 ? kBetween : kLongest));
      if (store->change_epoch() != epoch && !stopping_.load()) absl::SleepFor(std::min(due, kBetween));  // more will follow
    }
  }) {}
  ~Maintenance() {
    stopping_.store(true);
    store_->LogEvent(v1::Event::NODE, "node is stopping");  // a change
    thread_.join();
  }

 private:
  static constexpr absl::Duration kBetween = absl::Milliseconds(100);
  static constexpr absl::Duration kLongest = absl::Seconds(30);
  Store* const store_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace penstock::server
