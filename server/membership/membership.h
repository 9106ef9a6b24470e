// Membership: this node's place in a cluster whose nodes know each other by etcd (proto/cluster.proto says what lies there).
//
// A node is alive while its key is there, which is under a lease that it renews every third of the lease's length. Everybody watches the
// keys and the view; who sees that they differ proposes the next view (the member with the smallest id first, the others a little
// later each), conditional on the view and on the keys that it was made from: so nobody is expelled whose lease goes on.
//
// A node serves names until the time at which its last successful renewal was sent, plus the lease's length, less a margin: whoever
// sees it expelled knows that it does not serve any more, whatever it knows itself. A renewal counts only if the key was still there
// under that lease afterwards, and if the view names this lease and this process: under another one it may have been expelled, and taken
// back, in between. A lease whose key is gone, or under another lease (a registration that came late), is given up for a new one.
//
// A process that follows another one of the same memory within the lease goes on with it: it changes the key's session only, which is a
// change of the view.
//
// Threading:  any thread. Two threads of its own: one that renews and proposes, one that watches. Callbacks come on both, one at a
//             time; they must not call back.
// Ownership:  `kept` must outlive it: it is what the next process of this node goes on with.
// Errors:     Failed: what no retry mends (the id is another node's, or begins like one; etcd refuses the user). All else is retried, and told by `now().why`.
// Limits:     a lease of whole seconds
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cluster.pb.h"
#include "proto/uuid_text.h"
#include "server/membership/etcd_client.h"
#include "store.pb.h"

namespace penstock::server {

struct MembershipOptions {
  std::vector<std::string> etcd;  // host:port
  EtcdAccess access;
  std::string cluster;
  absl::Duration ttl;
  v1::Member self;  // as it describes itself: id, address, zone, host, version; session: 0 = a random one
};

class Membership {
 public:
  // Of one life of this node's memory; zero at its beginning.
  struct Kept {
    uint64_t boot;
    int64_t lease;
  };
  struct Callbacks {
    // For each new one that this node sees; the term is its number. `revision`: of its key, by which transactions demand this very view.
    std::function<void(const v1::View& view, int64_t revision)> view;
    // Names are served until then (CLOCK_MONOTONIC), by the lease that the view which was told last names for this process; told again
    // after each view. 0: not any more (and no lease).
    std::function<void(uint64_t ns, int64_t lease)> serve_until;
    std::function<void(const std::string& text)> event;
  };

  Membership(const MembershipOptions& options, Kept* kept, Callbacks callbacks);
  ~Membership() { Stop(false); }

  struct Now {
    v1::View view;
    uint64_t term = 0;
    bool serving = false;
    std::string why;  // not
  };
  Now now() const;
  uint64_t session() const { return self_.session(); }
  void Tell(v1::ClusterInfo* info) const;
  absl::Status Failed() const;

  // Gives up what an absent node had; the new term. NOT_FOUND: it is not absent. Waits for etcd, at most some seconds.
  absl::StatusOr<uint64_t> Forget(const std::string& id);
  // Whether a member (this node or another one) is to have nothing that others need; the term of a view that says so. It is kept until it is
  // taken back, the node leaves, or its memory is lost. NOT_FOUND: it is no member. Waits likewise.
  absl::StatusOr<uint64_t> SetDraining(const std::string& id, bool draining);

  // leave: the node goes for good, so nobody need wait for its lease to end, or for the node to come back.
  void Stop(bool leave);

 private:
  struct Key {
    v1::Member member;
    int64_t mod_revision = 0;
  };
  // What is in etcd, as of a revision.
  struct Seen {
    int64_t revision = 0;
    std::map<std::string, Key> nodes;  // by the id as text
    v1::View view;
    int64_t view_revision = 0;
  };

  static constexpr absl::Duration kBetweenProposers = absl::Milliseconds(200);

  static uint64_t RandomWord();  // not 0
  void Keep();
  void Watch();
  absl::Status Renew();
  absl::StatusOr<bool> KeepKey();
  absl::Status Register();
  absl::Status MayRegister();
  void Renewed(absl::Time sent, absl::Duration ttl);
  void LeaseIsOver();
  absl::Status IdIsTaken(const v1::Member& by);
  absl::Status Refresh();
  void Apply(const etcdserverpb::WatchResponse& response);
  static void ApplyKey(const MembershipOptions& options, const etcdserverpb::KeyValue& kv, bool deleted, Seen* seen);
  // `anew`: etcd has lost what it knew, so an older revision is news.
  void Told(Seen next, bool anew);
  // `again`: also what was told before.
  void TellServeUntil(bool again) ABSL_EXCLUSIVE_LOCKS_REQUIRED(telling_);
  bool ViewNamesThisLease() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static std::vector<v1::Member> Alive(const Seen& seen);
  std::optional<v1::View> Wanted(const Seen& seen) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration UntilMyTurn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<bool> Propose(const Seen& seen, const v1::View& next);
  // `deleted_key`: with the change; empty: none.
  absl::StatusOr<uint64_t> Change(const std::function<std::optional<v1::View>(const v1::View&)>& change, const std::string& deleted_key,
                                  absl::Duration patience);
  void Leave();
  void Note(const absl::Status& status);
  std::string Described(int64_t lease) const;
  std::string NodeKey(std::string_view id) const { return prefix_ + "nodes/" + UuidText(id); }
  std::string ViewKey() const { return prefix_ + "view"; }

  const MembershipOptions options_;
  const std::string prefix_;
  const EtcdRange watched_;        // the nodes' keys and the view
  const absl::Duration patience_;  // of one call
  v1::Member self_;                // constant after construction; without lease
  Kept* const kept_;
  const Callbacks callbacks_;
  EtcdClient client_;
  EtcdClient::Watching watching_{&client_};

  std::mutex telling_;  // one callback at a time, in order
  uint64_t told_until_ ABSL_GUARDED_BY(telling_) = 0;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_cluster_id_ ABSL_GUARDED_BY(mutex_) = 0;  // of the last view that had one, and its number
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  absl::Status trouble_ ABSL_GUARDED_BY(mutex_);                          // of the last call
  int64_t lease_ ABSL_GUARDED_BY(mutex_) = 0;                              // the one that lease_until_ is of
  absl::Time lease_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
  absl::Time taken_since_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // somebody else has this node's key
  absl::Time differ_since_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // the view is not what it should be
  std::thread keeper_;
  std::thread watcher_;
};

}  // namespace penstock::server
