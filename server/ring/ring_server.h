// RingServer: the thread that serves the submission rings of all sessions.
//
// Sleeps on one epoll set with the eventfd of every session. A session is *active* while its queue was not empty a moment
// ago; an active one is polled without system calls (its node_sleeping is 0), and the thread spins for a short time
// after the last request before it sleeps, so that a client in a loop does not pay a wake-up each time.
//
// A request that has to wait (for memory, a tensor or an event) is parked and asked again when what it waits for may have
// come.
//
// Threading:  Start, Add and Stop: any thread; the serving is one thread's.
// Ownership:  shares the sessions.
// Errors:     a session that breaks the ring's rules is cut off: its socket is shut down, which ends it.
// Limits:     kMaxParked parked requests a session.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "proto/layout/ring_layout.h"
#include "server/ring/parked_requests.h"
#include "server/remote/remote_store.h"
#include "server/ring/ring_request.h"
#include "server/rpc/store_service.h"
#include "transport/monotonic.h"
#include "transport/unique_fd.h"

namespace penstock::server {

class RingServer {
 public:
  // As many as a session can have in its queue: puts that wait for memory are not refused for being many.
  static constexpr size_t kMaxParked = layout::kQueueEntries;

  // `remote`: null in a test that grants no leases; must outlive it.
  static absl::StatusOr<std::unique_ptr<RingServer>> Start(StoreService* service, RemoteStore* remote = nullptr);
  ~RingServer() { Stop(); }

  void Add(std::shared_ptr<Session> session);  // has a ring
  void Remove(uint64_t session);
  // Something that parked requests may wait for has changed; the tensor of this name, if not 0.
  void Wake(uint64_t name_hash);
  void Stop();

 private:
  struct Ring {
    std::shared_ptr<Session> session;
    uint32_t head = 0;  // ours; the shared one is only written
    bool active = false;
    bool waits_for_turn = false;  // its next request, by StoreService::rate()
  };
  enum class Outcome { kAnswered, kPark, kCutOff };

  RingServer(StoreService* service, RemoteStore* remote) : service_(service), remote_(remote) {}
  bool HasPeers() const { return remote_ != nullptr && (remote_->has_peers() || remote_->by_directory()); }
  bool ByDirectory() const { return remote_ != nullptr && remote_->by_directory(); }
  void Run();
  void TakeChanges();
  bool ServeActive();
  bool ServeByTurns();
  bool TakeTurn(Ring& ring);
  bool TrySleep();
  void AwaitEvents(absl::Duration timeout);
  size_t Drain(Ring& ring, size_t most);
  void Serve(Ring& ring, const RingRequest& request);
  Outcome Execute(Session& session, const RingRequest& request, bool last_chance, Parking* parking);
  std::optional<absl::StatusOr<Placed>> Place(Session& session, const absl::StatusOr<CreateSpec>& spec, bool last_chance,
                                              Parking* parking);
  Outcome Put(Session& session, const RingRequest& request, bool last_chance, Parking* parking);
  Outcome Reserve(Session& session, const RingRequest& request, bool last_chance, Parking* parking);
  Outcome Call(Session& session, const RingRequest& request, bool last_chance, Parking* parking);
  void RetryChanged();
  void RetryLate(absl::Time now);
  bool Retry(ParkedRequest& parked, bool late);
  void CutOff(Ring& ring, const absl::Status& why);

  // The result of a job that `start` begins at the first time; nothing while it is under way.
  std::optional<RemoteStore::Result> Remote(bool last_chance, Parking* parking, const std::function<uint64_t()>& start);
  Outcome Publish(Session& session, const RingRequest& request, const layout::DraftRequest& draft, bool last_chance, Parking* parking);
  std::optional<std::pair<std::string, directory::OpId>> BegunBefore(const Session& session, const layout::DraftRequest& draft) const;
  Outcome Find(const Session& session, const RingRequest& request, bool last_chance, Parking* parking);

  StoreService* const service_;
  RemoteStore* const remote_;
  const absl::Time started_ = MonotonicNow();
  UniqueFd epoll_;
  UniqueFd wake_;

  std::mutex mutex_;
  std::vector<std::shared_ptr<Session>> added_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> removed_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> changed_names_ ABSL_GUARDED_BY(mutex_);  // hashes
  std::atomic<bool> changes_{false};
  std::atomic<bool> woken_{false};
  std::atomic<bool> stopping_{false};

  std::map<uint64_t, Ring> rings_;  // the thread's own
  uint64_t last_turn_ = 0;  // the session whose request was served last, with a limited rate
  bool throttled_ = false;  // somebody waits for the next turn
  ParkedRequests parked_;
  RingRequest scratch_;  // the one being served; keeps its memory from one to the next
  std::thread thread_;
};

}  // namespace penstock::server
