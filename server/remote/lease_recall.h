// LeaseRecall: what this node's names are leased to whom, and how leases are called back before a name changes.
//
// A node that reads a tensor of this one by name may be given a lease: until it ends, it serves its copy by name without
// asking. It keeps one call here waiting meanwhile (Peer.AwaitRecalls) and answers a recall with the next one. A holder
// that does not answer (killed, stopped, cut off) is waited for until its leases are over: kLease at most.
//
//   absl::StatusOr<Published> done = recall.Change(name, [&](LeaseRule rule) { return store->Delete(name, 0, rule); });
//
// As in NFS and Chubby: Gray and Cheriton, "Leases", SOSP 1989.
//
// Threading:  any thread; Change and Await block.
// Ownership:  the store must outlive it.
// Errors:     those of the change.
// Limits:     a change takes kLease + kMargin longer at most; without holders it costs nothing more.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/store/store.h"
#include "transport/lane/lane.h"

namespace penstock::server {

class LeaseRecall {
 public:
  static constexpr absl::Duration kLease = absl::Seconds(1);
  static constexpr absl::Duration kMargin = absl::Milliseconds(50);  // the holder's clock may be a little slow

  explicit LeaseRecall(Store* store) : store_(store) {}

  // What the change says; it is made once more, after the leases are over, if it met some.
  template <class F>
  auto Change(std::string_view name, F change) {
    auto result = change(LeaseRule::kRespect);
    if (!IsLeased(StatusOf(result))) return result;
    const Recalled recalled(this, {std::string(name)});
    return change(LeaseRule::kRecalled);
  }
  // The same for many names, whose leases are called back together: change(i, rule).
  template <class F>
  auto ChangeMany(const std::vector<std::string>& names, F change) {
    std::vector<decltype(change(size_t{0}, LeaseRule::kRespect))> results;
    std::vector<size_t> leased;
    std::vector<std::string> leased_names;
    for (size_t i = 0; i < names.size(); ++i) {
      results.push_back(change(i, LeaseRule::kRespect));
      if (!IsLeased(StatusOf(results.back()))) continue;
      leased.push_back(i);
      leased_names.push_back(names[i]);
    }
    if (leased.empty()) return results;
    const Recalled recalled(this, std::move(leased_names));
    for (size_t i : leased) results[i] = change(i, LeaseRule::kRecalled);
    return results;
  }
  absl::StatusOr<uint64_t> DeletePrefix(std::string_view prefix);

  // To be asked before the store is: whether `holder` may serve the name for kLease from `now` on. Not while it changes.
  bool Grants(const LaneToken& holder, std::string_view name, absl::Time now);
  // For the holder's next recalls; those up to `done` have been obeyed. Empty when none came in `longest`.
  struct Recalls {
    uint64_t last = 0;
    std::vector<std::string> names;
  };
  Recalls Await(const LaneToken& holder, uint64_t done, absl::Duration longest);
  void Forget(const LaneToken& holder);  // its session is over; so will its leases be, by their time
  void Stop();                           // ends all waiting; what waits in Change goes on when the leases are over

 private:
  struct Lease {
    absl::Time until;
    uint64_t number = 0;  // leases and recalls are numbered in one order: a recall ends only what is older
  };
  struct Recall {
    uint64_t number;
    std::string name;
  };
  struct Holder {
    absl::flat_hash_map<std::string, Lease> leases;
    std::deque<Recall> recalls;  // not obeyed yet
    size_t sweep_at = 1024;
    bool gone = false;
  };
  // No leases of the names while it lives, neither old nor new ones.
  class Recalled {
   public:
    Recalled(LeaseRecall* recall, std::vector<std::string> names);
    ~Recalled();
    Recalled(const Recalled&) = delete;

   private:
    LeaseRecall* const recall_;
    const std::vector<std::string> names_;
  };

  static absl::Status StatusOf(const absl::Status& status) { return status; }
  template <class T>
  static absl::Status StatusOf(const absl::StatusOr<T>& result) { return result.status(); }
  void SweepHolders(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CallBack(const std::vector<std::string>& names);  // returns when nobody serves them any more
  void Allow(const std::vector<std::string>& names);
  absl::Time LastOf(const std::vector<std::string>& names) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Store* const store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;  // lease or recall
  std::map<LaneToken, Holder> holders_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, int> changing_ ABSL_GUARDED_BY(mutex_);  // how many changes are under way
};

}  // namespace penstock::server
