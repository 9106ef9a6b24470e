// RemotePuts: what clients of this node put under names whose home may be another node.
//
// The bytes are in a draft here. It is published at the home of its name, and is a copy here from then on; if nobody else has
// the name, this node becomes its home. What is put together goes together: one call to each peer to find the homes, one
// batch of writes and one call to publish for each home.
//
// Threading:  any thread; Publish blocks until every answer was given.
// Ownership:  the store, the recall, the peers and the jobs must outlive it. A draft leaves its session's books first, so it
//             outlives the client.
// Errors:     the home's; UNAVAILABLE a peer could not be asked, RESOURCE_EXHAUSTED it has no room.
// Limits:     a home whose process is replaced meanwhile is waited for, some seconds; what it published before, it knows by
//             the put's key, so it is published once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "server/remote/homes.h"
#include "server/remote/lease_recall.h"
#include "server/remote/peer_node.h"
#include "server/remote/remote_jobs.h"
#include "server/store/store.h"

namespace penstock::server {

class RemotePuts {
 public:
  RemotePuts(Store* store, LeaseRecall* recall, Homes* homes, RemoteJobs* jobs, bool require_rdma)
      : store_(store), recall_(recall), homes_(homes), jobs_(jobs), require_rdma_(require_rdma) {}

  struct Item {
    std::shared_ptr<Session> session;  // null if it has ended
    layout::RecordRef record = 0;
    uint64_t record_seq = 0;
    uint64_t key = 0;  // of `jobs`, which is told the result
  };
  // Of different names, or sessions: in any order.
  void Publish(const std::vector<Item>& items);
  void Stop();  // ends all waiting for homes that are replaced

 private:
  // A put on its way to its home.
  struct Going {
    uint64_t key = 0;
    Store::TakenDraft draft;
    uint64_t request_key = 0;  // 0: not told apart
    bool require_rdma = false;
    bool if_home = true;
    PeerRef home;  // null: not found yet, or this node
    PeerNode::Reserved reserved;
    absl::StatusOr<Published> result = absl::UnknownError("");

    PeerNode::Reserving Ask() const { return {&draft.spec, draft.nbytes, request_key, require_rdma, if_home}; }
  };

  void PublishHere(const std::vector<const Item*>& items);
  void PublishTakenHere(uint64_t key, const Store::TakenDraft& draft);
  void FindHomes(std::vector<Going>* going);
  static std::vector<bool> ReserveAt(const PeerRef& peer, absl::Span<Going* const> going);
  void GiveHomes(std::vector<Going>* going);
  void PublishAll(std::vector<Going>* going);
  void PublishAt(PeerNode& peer, std::vector<Going*> going);
  void WriteAndPublish(PeerNode& peer, const std::vector<Going*>& going);
  std::vector<Going*> ReserveAgain(PeerNode& peer, const std::vector<Going*>& going);
  void Answer(Going& going);
  void Finish(uint64_t key, const absl::StatusOr<Published>& result);
  uint64_t RequestKey(const Session& session, uint64_t request_id) const;
  bool PauseOrStop(absl::Duration pause);  // true: stopping

  Store* const store_;
  LeaseRecall* const recall_;
  Homes* const homes_;
  RemoteJobs* const jobs_;
  const bool require_rdma_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace penstock::server
