#include "client/connection.h"

#include "client/session/fork.h"
#include "proto/strcat.h"

namespace penstock::client {

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(const ClientOptions& options) {
  if (options.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("connect: timeout must be above 0");
  }
  if (!options.require_transport.empty() && options.require_transport != "rdma") {
    return absl::InvalidArgumentError(StrCat("require_transport: \"", options.require_transport, "\"; allowed is \"rdma\", or none"));
  }
  std::shared_ptr<Connection> connection(new Connection(options));
  const absl::StatusOr<Session*> session = connection->Live(connection->DefaultDeadline());
  if (!session.ok()) return session.status();
  return connection;
}

Connection::Connection(const ClientOptions& options) : options_(options) {
  ForkList::AddMutex(&mutex_);
}

Connection::~Connection() {
  ForkList::RemoveMutex(&mutex_);
  for (Session* session = session_.load(); session != nullptr;) {
    Session* const previous = session->previous;
    session->Unref();
    session = previous;
  }
}

absl::StatusOr<Session*> Connection::Live(const Deadline& deadline) {
  Session* session = session_.load(std::memory_order_acquire);
  if (session != nullptr && !session->ended()) return session;
  std::lock_guard<std::mutex> lock(mutex_);
  session = session_.load(std::memory_order_acquire);
  if (session != nullptr && !session->ended()) return session;
  absl::StatusOr<Session*> opened = Session::Open(options_, deadline);
  if (!opened.ok()) return opened;
  (*opened)->previous = session;
  session_.store(*opened, std::memory_order_release);
  return *opened;
}

}  // namespace penstock::client
