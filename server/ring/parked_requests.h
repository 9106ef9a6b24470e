// ParkedRequests: the requests that wait, found by what they wait for.
//
// A request waits for one tensor (a Wait: told by the hash of its name) or for any change (memory, a Watch). What changes
// elsewhere costs the waiters of a name nothing: thousands may wait while others put.
//
// Threading:  one thread (RingServer's).
// Ownership:  shares the sessions.
// Errors:     none.
// Limits:     the caller's (RingServer::kMaxParked a session).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/ring/ring_request.h"
#include "server/store/session.h"

namespace penstock::server {

// Until when a request waits, and for what: a name (its hash in this catalog), a job of the RemoteStore (its key), or any
// change (0).
struct Parking {
  absl::Time until = absl::InfiniteFuture();
  uint64_t name_hash = 0;
  bool asked = false;  // a job is under way
  friend bool operator==(const Parking&, const Parking&) = default;
};

struct ParkedRequest {
  std::shared_ptr<Session> session;
  RingRequest request;
  Parking parking;
};

class ParkedRequests {
 public:
  // Whether the request is answered; `late`: its time is over, it must be. May change what it waits for.
  using Attempt = std::function<bool(ParkedRequest&, bool late)>;

  void Add(ParkedRequest request);
  void RemoveSession(uint64_t session);

  // Asks again, first come first: those that wait for any change, and those that wait for one of `name_hashes`.
  void RetryChanged(absl::Span<const uint64_t> name_hashes, absl::Time now, const Attempt& attempt);
  void RetryLate(absl::Time now, const Attempt& attempt);

  bool empty() const { return requests_.empty(); }
  size_t count(uint64_t session) const;
  absl::Time next_deadline() const;

 private:
  using Id = uint64_t;  // in the order of arrival
  void Retry(Id id, absl::Time now, const Attempt& attempt);
  void Enter(Id id, const Parking& parking);
  void Leave(Id id, const Parking& parking);
  void Forget(std::map<Id, ParkedRequest>::iterator it);

  Id next_ = 1;
  std::map<Id, ParkedRequest> requests_;
  std::set<std::pair<uint64_t, Id>> by_name_;  // (hash or 0, ...)
  std::set<std::pair<absl::Time, Id>> by_deadline_;
  absl::flat_hash_map<uint64_t, size_t> counts_;  // a session's
};

}  // namespace penstock::server
