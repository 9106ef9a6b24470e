// ClusterEvents: what happens to names whose homes are other nodes, for those that watch at this one.
//
// While somebody watches, every other member is asked for what its names do, and that goes into this node's event log, so that a
// cursor of this node covers the whole cluster. When events may have been missed (a member is gone, or was asked too late), the log gets
// a RESYNC: whoever watches lists again.
//
// Threading:  any thread; Watched does not wait. One thread of its own, and one for each other member, while somebody watches.
// Ownership:  what it is given must outlive it
// Errors:     none: a member that does not answer is asked again
// Limits:     kInterest after the last watcher has asked it stops
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "server/remote/peer_table.h"
#include "server/store/store.h"

namespace penstock::server {

class ClusterEvents {
 public:
  static constexpr absl::Duration kInterest = absl::Seconds(30);

  ClusterEvents(Store* store, const PeerTable* peers) : store_(store), peers_(peers) {}
  ~ClusterEvents() { Stop(); }
  void Stop();  // idempotent; after the peers'

  // Somebody watches. True: all members are followed, so the log has what happens from now on.
  bool Watched();

 private:
  // One member that is followed.
  struct Following {
    PeerRef peer;
    std::thread thread;
    std::atomic<bool> stop{false};
    std::atomic<bool> begun{false};  // its cursor is known
  };

  void Run();
  void Update(std::vector<std::shared_ptr<Following>>* ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Follow(Following* following);
  bool AllBegun() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Store* const store_;
  const PeerTable* const peers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time wanted_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
  bool followed_before_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<PeerRef, std::shared_ptr<Following>> following_ ABSL_GUARDED_BY(mutex_);
  std::thread keeping_;  // from the first watcher on
};

}  // namespace penstock::server
