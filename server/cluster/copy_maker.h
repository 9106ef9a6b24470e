// CopyMaker: replicas, made on this node because a home or a proposer wants them (directory::Pull).
//
// Copies of a put that somebody waits for are made at once. All others (repair, moves, drain, rebalancing) have threads of their own
// and share --repair_bandwidth: each begins when those before it would be done at that rate. Small ones from one node are copied
// together, as many as wait while others are being copied.
//
// Threading:  any thread; Start returns at once, the copies are made in `jobs`
// Ownership:  what it is given must outlive it, and Stop
// Errors:     told to the directory: a copy that could not be made is asked of somebody else
// Limits:     those of RemoteJobs, twice; a copy waits for memory at most Store::kMemoryWait; one tensor is read at the speed of the link
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "server/cluster/cluster_directory.h"
#include "server/cluster/rate_limit.h"
#include "server/remote/node_session.h"
#include "server/remote/peer_table.h"
#include "server/remote/remote_jobs.h"
#include "server/store/store.h"

namespace penstock::server {

class CopyMaker {
 public:
  using PeerOf = std::function<PeerRef(directory::NodeId node)>;  // null: it is no member

  // `bytes_per_second`: of all copies that nobody waits for; 0: no limit.
  CopyMaker(Store* store, ClusterDirectory* directory, RemoteJobs* jobs, PeerOf peer_of, uint64_t bytes_per_second)
      : store_(store), directory_(directory), peer_of_(std::move(peer_of)), writer_(store, "replica"), rate_(bytes_per_second),
        hurried_{.jobs = jobs, .paced = false, .waiting = {}}, unhurried_{.jobs = &unhurried_jobs_, .paced = true, .waiting = {}} {}

  void Start(const directory::Pull& pull);
  void Stop();  // idempotent; waits for the copies that are being made without haste
  uint64_t repaired() const { return repaired_.load(); }
  uint64_t repaired_bytes() const { return repaired_bytes_.load(); }

 private:
  static constexpr size_t kTogether = 64;
  static constexpr uint64_t kTogetherBytes = uint64_t{1} << 20;
  static constexpr int kJobsEach = 4;  // of one node's tensors at a time

  struct Waiting {
    std::deque<directory::Pull> pulls;
    int jobs = 0;
  };
  // Copies of one kind of haste.
  struct Line {
    RemoteJobs* jobs;
    bool paced;
    std::map<directory::NodeId, Waiting> waiting;  // by the first node that has it
  };
  // A copy that is being made.
  struct Making {
    const directory::Pull* pull;
    v1::RecordInfo info{};
    std::string metadata{};
    absl::StatusOr<Placed> placed = absl::UnknownError("");
    absl::Status status{};  // of the last step
  };

  // What is pinned at a peer: given back when the copies have been told, for whoever waits for them need not wait for that.
  class Pinned {
   public:
    Pinned() = default;
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;
    ~Pinned();
    void Add(PeerRef peer, std::vector<PeerNode::Found> found) { all_.emplace_back(std::move(peer), std::move(found)); }

   private:
    std::vector<std::pair<PeerRef, std::vector<PeerNode::Found>>> all_;
  };

  void Work(Line* line, directory::NodeId from);
  std::vector<directory::Pull> Next(Line* line, directory::NodeId from);
  // Until it is their turn; false: stopped.
  bool AwaitTurn(uint64_t bytes);
  void Run(const std::vector<directory::Pull>& pulls);
  void MakeOffered(const std::vector<directory::Pull>& pulls, std::vector<absl::Status>* made);
  std::vector<absl::Status> MakeTogether(const std::vector<directory::Pull>& pulls, Pinned* pinned);
  absl::Status Make(const directory::Pull& pull, Pinned* pinned);
  std::vector<absl::Status> MakeFrom(const PeerRef& peer, const std::vector<const directory::Pull*>& pulls, bool verify, Pinned* pinned);
  void Place(Making* one);
  // The bytes of those without an error are there. One status each.
  std::vector<absl::Status> Finish(const std::vector<Making>& all);
  absl::Status Prepare(const Making& one);

  Store* const store_;
  ClusterDirectory* const directory_;
  const PeerOf peer_of_;
  NodeSession writer_;
  std::atomic<uint64_t> repaired_{0}, repaired_bytes_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  RateLimit rate_ ABSL_GUARDED_BY(mutex_);
  RemoteJobs unhurried_jobs_;
  Line hurried_;    // `waiting`: by the mutex
  Line unhurried_;
};

}  // namespace penstock::server
