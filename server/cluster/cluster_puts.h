// ClusterPuts: what clients of this node put, in a cluster with a directory: the bytes stay here, the name's home decides.
//
// A draft becomes a prepared record (server/store: it outlives its client and this node's process), is proposed to the home of its
// name, and is live here when that says so. Puts of one name from this node go one after the other, in the order of Publish.
//
// Threading:  any thread; only PublishNow waits
// Ownership:  what it is given must outlive it
// Errors:     the home's: ALREADY_EXISTS (if_absent), ABORTED (if_version, version); UNAVAILABLE it may or may not have been done
// Limits:     some hundred bytes a put that is under way
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/cluster/cluster_directory.h"
#include "server/remote/put_offers.h"
#include "server/store/store.h"

namespace penstock::server {

class ClusterPuts {
 public:
  // `offers`: null: the data port is off.
  ClusterPuts(Store* store, ClusterDirectory* directory, PutOffers* offers) : store_(store), directory_(directory), offers_(offers) {}

  using Done = std::function<void(const absl::StatusOr<Published>& published)>;
  // The session's draft; null: the session has ended. `done` comes on any thread, perhaps before this returns.
  void Publish(const std::shared_ptr<Session>& session, layout::RecordRef record, uint64_t record_seq, Done done);
  // The same, and waits, at most kPatience. One result each.
  static constexpr absl::Duration kPatience = absl::Seconds(60);
  struct Draft {
    layout::RecordRef record = 0;
    uint64_t record_seq = 0;
  };
  // The end of a put that an earlier process of this node has begun. Waits, at most kPatience.
  absl::StatusOr<Published> AwaitEnd(const std::string& name, directory::OpId op);
  std::vector<absl::StatusOr<Published>> PublishNow(const std::shared_ptr<Session>& session, const std::vector<Draft>& drafts);

 private:
  struct Going {
    Store::TakenDraft draft;
    Done done;
  };

  void Propose(Going going);
  void OfferBytes(const std::string& name, directory::OpId op);
  void Next(const std::string& name);
  void Finish(const Going& going, directory::OpId op, directory::Outcome outcome, directory::Version version);
  absl::StatusOr<Published> ResultOf(const Going& going, directory::OpId op, directory::Outcome outcome, directory::Version version) const;

  Store* const store_;
  ClusterDirectory* const directory_;
  PutOffers* const offers_;
  std::mutex mutex_;
  absl::flat_hash_map<std::string, std::deque<Going>> waiting_ ABSL_GUARDED_BY(mutex_);  // for the one of that name that is under way
};

}  // namespace penstock::server
