// ClusterWaits: names that clients of this node wait for, and that may be put anywhere in the cluster.
//
// While somebody asks for a name here, its home is asked again and again: after 5 ms, then ever later, up to 80 ms. When it has come,
// the store says that something has changed (Store::NoteNews), so that whoever waits asks here again.
//
// Threading:  any thread; Look does not wait. One thread of its own, asleep while nobody waits.
// Ownership:  what it is given must outlive it
// Errors:     none: a home that does not answer is asked again
// Limits:     one message to each home for all names that are due
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/cluster/cluster_directory.h"
#include "server/store/store.h"

namespace penstock::server {

class ClusterWaits {
 public:
  ClusterWaits(Store* store, ClusterDirectory* directory) : store_(store), directory_(directory) {}
  ~ClusterWaits() { Stop(); }
  void Stop();  // idempotent; before the directory's

  // What the home said, if it has said within kFresh that the name is there. Else it will be asked, for kInterest.
  std::optional<directory::LookupResult> Look(const std::string& name);

 private:
  static constexpr absl::Duration kFresh = absl::Milliseconds(200);
  static constexpr absl::Duration kInterest = absl::Milliseconds(1500);  // who waits asks at least once a second
  static constexpr absl::Duration kFirstPause = absl::Milliseconds(5);
  static constexpr absl::Duration kLongestPause = absl::Milliseconds(80);

  struct Waited {
    absl::Time wanted_until;
    absl::Time ask_at;
    absl::Duration pause = kFirstPause;
    bool asked = false;  // and not answered
    absl::Time found_at = absl::InfinitePast();
    directory::LookupResult found;
  };

  void Run();
  std::vector<std::string> Due(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Take(const std::vector<std::string>& names, absl::Time asked, std::vector<directory::LookupResult> results);

  Store* const store_;
  ClusterDirectory* const directory_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<std::string, Waited> names_ ABSL_GUARDED_BY(mutex_);
  std::thread asking_;  // from the first Look on
};

}  // namespace penstock::server
