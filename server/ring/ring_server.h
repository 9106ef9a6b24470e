// RingServer: the thread that serves the submission rings of all sessions.
//
// Sleeps on one epoll set with the eventfd of every session. A session is *active* while its queue was not empty a moment
// ago; an active one is polled without system calls (its node_sleeping is 0), and the thread spins for a short time
// after the last request before it sleeps, so that a client in a loop does not pay a wake-up each time.
//
// A request that has to wait (for memory, or for a tensor) is parked and asked again when the store has changed.
//
// Threading:  Start, Add and Stop: any thread; the serving is one thread's.
// Ownership:  shares the sessions.
// Errors:     a session that breaks the ring's rules is cut off: its socket is shut down, which ends it.
// Limits:     kMaxParked parked requests a session.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "proto/layout/ring_layout.h"
#include "server/ring/ring_request.h"
#include "server/rpc/store_service.h"
#include "transport/unique_fd.h"

namespace penstock::server {

class RingServer {
 public:
  // As many as a session can have in its queue: puts that wait for memory are not refused for being many.
  static constexpr size_t kMaxParked = layout::kQueueEntries;

  static absl::StatusOr<std::unique_ptr<RingServer>> Start(StoreService* service);
  ~RingServer() { Stop(); }

  void Add(std::shared_ptr<Session> session);  // has a ring
  void Remove(uint64_t session);
  void Wake();  // something that parked requests may wait for has changed
  void Stop();

 private:
  struct Ring {
    std::shared_ptr<Session> session;
    uint32_t head = 0;  // ours; the shared one is only written
    bool active = false;
    size_t parked = 0;
  };
  struct Parked {
    std::shared_ptr<Session> session;
    RingRequest request;
    absl::Time deadline;
  };
  enum class Outcome { kAnswered, kPark, kCutOff };

  explicit RingServer(StoreService* service) : service_(service) {}
  void Run();
  void TakeChanges();
  bool ServeActive();
  bool TrySleep();
  void AwaitEvents(absl::Duration timeout);
  size_t Drain(Ring& ring);
  void Serve(Ring& ring, const RingRequest& request);
  Outcome Execute(Session& session, const RingRequest& request, bool last_chance, absl::Time* park_until);
  std::optional<absl::StatusOr<Placed>> Place(Session& session, const absl::StatusOr<CreateSpec>& spec, bool last_chance,
                                              absl::Time* park_until);
  Outcome Put(Session& session, const RingRequest& request, bool last_chance, absl::Time* park_until);
  Outcome Reserve(Session& session, const RingRequest& request, bool last_chance, absl::Time* park_until);
  Outcome Call(Session& session, const RingRequest& request, bool last_chance, absl::Time* park_until);
  void RetryParked(bool all);
  void CutOff(Ring& ring, const absl::Status& why);

  StoreService* const service_;
  UniqueFd epoll_;
  UniqueFd wake_;

  std::mutex mutex_;
  std::vector<std::shared_ptr<Session>> added_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> removed_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> changes_{false};
  std::atomic<bool> woken_{false};
  std::atomic<bool> stopping_{false};

  std::map<uint64_t, Ring> rings_;  // the thread's own
  std::list<Parked> parked_;
  RingRequest scratch_;  // the one being served; keeps its memory from one to the next
  std::thread thread_;
};

}  // namespace penstock::server
