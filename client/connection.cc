#include "client/connection.h"

namespace penstock::client {

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(const ClientOptions& options) {
  if (options.timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("connect: timeout must be above 0");
  }
  std::shared_ptr<Connection> connection(new Connection(options));
  const absl::StatusOr<Session*> session = connection->Live(connection->DefaultDeadline());
  if (!session.ok()) return session.status();
  return connection;
}

Connection::~Connection() {
  for (Session* session : sessions_) session->Unref();
}

absl::StatusOr<Session*> Connection::Live(const Deadline& deadline) {
  Session* session = session_.load(std::memory_order_acquire);
  if (session != nullptr && !session->ended()) return session;
  std::lock_guard<std::mutex> lock(mutex_);
  session = session_.load(std::memory_order_acquire);
  if (session != nullptr && !session->ended()) return session;
  absl::StatusOr<Session*> opened = Session::Open(options_.address, options_.label, deadline);
  if (!opened.ok()) return opened;
  sessions_.push_back(*opened);
  session_.store(*opened, std::memory_order_release);
  return *opened;
}

}  // namespace penstock::client
