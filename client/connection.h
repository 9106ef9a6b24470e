// Connection: a Client's way to its store, which may end and come back.
//
// Holds the present session. When the store that it belonged to has ended, or after a fork, the next
// call opens another one; the old one is kept until the Connection goes, because a thread may still
// be looking at it.
//
// Threading:  any thread; session() is one load
// Ownership:  a counted reference to each session it ever had
// Errors:     Live: those of Session::Open
// Limits:     one reconnect at a time
#ifndef PENSTOCK_CLIENT_CONNECTION_H_
#define PENSTOCK_CLIENT_CONNECTION_H_

#include <penstock/client.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "client/session/session.h"

namespace penstock::client {

class Connection {
 public:
  static absl::StatusOr<std::shared_ptr<Connection>> Open(const ClientOptions& options);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // The present session, which may have ended.
  Session* session() const { return session_.load(std::memory_order_acquire); }
  // A session that has not ended.
  absl::StatusOr<Session*> Live(const Deadline& deadline);

  Deadline DefaultDeadline() const { return Deadline::After(options_.timeout); }
  absl::Duration timeout() const { return options_.timeout; }

 private:
  explicit Connection(const ClientOptions& options);

  const ClientOptions options_;
  std::atomic<Session*> session_{nullptr};  // the newest; the others hang on `previous`
  std::mutex mutex_;  // one opens a session at a time; made anew in a forked child
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_CONNECTION_H_
