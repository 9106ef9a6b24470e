// Activations: in which view which node became the home of which partition of the directory, as etcd has it (server/directory/environment.h
// asks for it; proto/cluster.proto says what lies there).
//
// Each node has one key. It adds to it in a transaction that demands that the view is still the one that it acts in, and that its key is as
// it knows it: so of two homes that follow each other the later one has the larger term, and nothing is taken back by a call that comes
// late. The largest term of a partition counts, whoever's key says it.
//
// Keys of nodes that are neither members nor absent any more are taken away, by the member with the smallest id, when every partition in
// them has a larger term elsewhere.
//
// Belongs to one cluster id, that of the first view that it is told. With another one (etcd's data was lost) terms begin anew: from then on it
// does nothing and answers nothing, and another one, beside another DirectoryNode, takes its place.
//
//   Activations activations(options, callbacks);
//   activations.OnView(view, revision);   // before the DirectoryNode is told it
//   activations.Read(term);               // Environment::ReadActivations -> callbacks.read -> DirectoryNode::OnActivations
//   activations.Activate(term, {...});    // Environment::Activate        -> callbacks.activated -> DirectoryNode::OnActivated
//
// Threading:  any thread, none blocks. One thread of its own asks etcd; callbacks come on it, one at a time; they must not call Stop.
// Ownership:  values
// Errors:     none are returned. A read that fails is not answered: it is asked again. An activation is answered once: ok; or not, as the
//             view is another one (then it comes, or has come); or not with retry: nobody knows whether it was made. Made again it does no
//             harm, and one that was made is ok, whatever the view is then. What etcd refuses for good is told by `event`.
// Limits:     one call to etcd at a time, each for Options::patience at most; reads that wait are one
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cluster.pb.h"
#include "server/directory/environment.h"
#include "server/membership/active_map.h"
#include "server/membership/etcd_client.h"

namespace penstock::server {

class Activations {
 public:
  struct Options {
    std::vector<std::string> etcd;  // host:port
    EtcdAccess access;
    std::string cluster;
    std::string self;  // this node's uuid, 16 bytes
    directory::NodeId node = 0;  // and DirectoryIdOf it
    uint32_t partition_count = 4096;
    absl::Duration patience = absl::Seconds(1);
    absl::Duration sweep_every = absl::Seconds(10);  // while there are keys of nodes that are gone
  };
  struct Callbacks {
    std::function<void(directory::Term view, const std::vector<directory::Activation>& by_partition)> read;
    std::function<void(directory::Term view, bool ok, bool retry)> activated;
    std::function<void(const std::string& text)> event;
  };

  Activations(const Options& options, Callbacks callbacks);
  ~Activations() { Stop(); }

  // As Membership tells it.
  void OnView(const v1::View& view, int64_t revision);
  void Read(directory::Term view);
  void Activate(directory::Term view, std::vector<directory::ActivatePartition> partitions);

  // Idempotent; waits for a call to etcd that is under way. Nothing is answered afterwards.
  void Stop();

 private:
  struct Request {
    directory::Term view = 0;
    std::vector<directory::ActivatePartition> partitions;
  };
  struct KnownView {
    v1::View view;
    int64_t revision = 0;  // of its key
  };
  // What this node's key has; nothing: not known.
  struct Own {
    ActiveMap map;
    int64_t revision = 0;  // 0: there is none
  };
  enum class Outcome { kDone, kOtherView, kUnknown };

  void Run();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadAll(directory::Term view);
  Outcome TryActivate(const Request& request, KnownView known);
  bool FetchOwn();
  Own OwnFrom(const etcdserverpb::RangeResponse& response) const;
  void Sweep(const KnownView& known);
  bool RemoveKey(const KnownView& known, const etcdserverpb::KeyValue& kv);
  void Note(const absl::Status& status);
  bool IsSweeper(const v1::View& view) const;

  const Options options_;
  const std::string prefix_;  // of the keys
  const std::string own_key_;
  const std::string view_key_;
  const Callbacks callbacks_;
  EtcdClient client_;

  // The thread's own.
  std::optional<Own> own_;
  absl::Status trouble_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t cluster_id_ = 0;  // written once, under mutex_, before there is work
  KnownView known_ ABSL_GUARDED_BY(mutex_);
  std::deque<Request> requests_ ABSL_GUARDED_BY(mutex_);
  std::optional<directory::Term> read_ ABSL_GUARDED_BY(mutex_);
  absl::Time sweep_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // MonotonicNow
  std::thread thread_;
};

}  // namespace penstock::server
