#include "transport/stream/stream_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "transport/monotonic.h"
#include "transport/stream/server_connection.h"
#include "transport/sys_error.h"

namespace penstock {
namespace {

using stream::ServerConnection;

constexpr int kEventsAtOnce = 64;
constexpr int kTickMillis = 200;  // while somebody is on probation or follows channels, or no descriptor is left to accept with

// What the loops share: who is connected.
class Census {
 public:
  explicit Census(const StreamServerOptions& options) : options_(options) {}

  bool Enter() {
    std::lock_guard lock(mutex_);
    if (connections_ >= options_.max_connections) return false;
    ++connections_;
    return true;
  }
  void Abandon() {
    std::lock_guard lock(mutex_);
    --connections_;
  }
  bool Introduce(const LaneToken& token, int fd) {
    std::lock_guard lock(mutex_);
    std::vector<int>& of_token = by_token_[token];
    if (of_token.size() >= options_.max_connections_per_token) return false;
    of_token.push_back(fd);
    return true;
  }
  // Before the descriptor is closed.
  void Leave(const ServerConnection& connection, bool introduced) {
    std::lock_guard lock(mutex_);
    --connections_;
    if (!introduced) return;
    auto it = by_token_.find(connection.token());
    it->second.erase(std::find(it->second.begin(), it->second.end(), connection.fd()));
    if (it->second.empty()) by_token_.erase(it);
  }
  void ShutDown(const LaneToken& token) {
    std::lock_guard lock(mutex_);
    auto it = by_token_.find(token);
    if (it == by_token_.end()) return;
    for (int fd : it->second) (void)shutdown(fd, SHUT_RDWR);
  }
  uint64_t connections() const {
    std::lock_guard lock(mutex_);
    return connections_;
  }

 private:
  const StreamServerOptions& options_;
  mutable std::mutex mutex_;
  size_t connections_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<LaneToken, std::vector<int>> by_token_ ABSL_GUARDED_BY(mutex_);
};

struct Shared {
  explicit Shared(const StreamServerOptions& options) : options(options), census(this->options) {}
  const StreamServerOptions options;
  stream::ServerCounters counters;
  Census census;
  std::atomic<uint64_t> strangers{0};
};

// One thread with the connections that it serves.
class Loop {
 public:
  explicit Loop(Shared* shared) : shared_(shared) {}
  ~Loop() { Stop(); }

  absl::Status Start(UniqueFd listener) {
    epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
    wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wake_) return SysError(errno, "stream server: epoll or eventfd");
    listener_ = std::move(listener);
    Watch(EPOLL_CTL_ADD, wake_.get(), EPOLLIN);
    if (listener_) Watch(EPOLL_CTL_ADD, listener_.get(), EPOLLIN);
    // Each ring is an edge for every loop, so nobody reads it, and no loop takes it from another.
    if (shared_->options.bell_fd >= 0) Watch(EPOLL_CTL_ADD, shared_->options.bell_fd, EPOLLIN | EPOLLET);
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }
  // Strangers are handled by the loop that accepts; those who said hello go to one of these.
  void HandKnownTo(std::vector<Loop*> loops) { loops_ = std::move(loops); }

  void Stop() {
    stopping_.store(true);
    Wake();
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct Guest {
    std::unique_ptr<ServerConnection> connection;
    uint32_t events = 0;      // what epoll waits for
    int64_t probation_ends = 0;  // 0: not on probation
    bool introduced = false;
    bool stranger = false;
    std::list<int>::iterator order;  // among the strangers
  };

  void Watch(int operation, int fd, uint32_t events) {
    epoll_event event{.events = events, .data = {.fd = fd}};
    (void)epoll_ctl(epoll_.get(), operation, fd, &event);
  }
  void Wake() {
    const uint64_t one = 1;
    if (write(wake_.get(), &one, sizeof(one)) < 0) return;  // signalled already
  }

  void Run() {
    epoll_event events[kEventsAtOnce];
    while (!stopping_.load()) {
      const bool ticks = !strangers_.empty() || probation_ > 0 || accept_paused_ || !followers_.empty();
      const int timeout = !again_.empty() ? 0 : ticks ? kTickMillis : -1;
      const int count = epoll_wait(epoll_.get(), events, kEventsAtOnce, timeout);
      for (int i = 0; i < count; ++i) {
        const int fd = events[i].data.fd;
        if (fd == wake_.get()) {
          TakeArrivals();
        } else if (listener_ && fd == listener_.get()) {
          Accept();
        } else if (fd == shared_->options.bell_fd) {
          ServeFollowers();
        } else {
          Serve(fd, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
        }
      }
      for (int fd : std::exchange(again_, {})) Serve(fd);
      if (ticks && MonotonicNanos() >= next_tick_) Tick();
    }
    while (!guests_.empty()) Close(guests_.begin()->first);
    TakeArrivals();
    while (!guests_.empty()) Close(guests_.begin()->first);
  }

  void Accept() {
    for (int i = 0; i < kEventsAtOnce; ++i) {
      absl::StatusOr<TcpSocket> socket = AcceptTcp(listener_.get());
      if (!socket.ok()) {  // no descriptors left: the listener would stay ready and spin
        accept_paused_ = true;
        Watch(EPOLL_CTL_MOD, listener_.get(), 0);
        return;
      }
      if (!*socket) return;
      if (!shared_->census.Enter()) {
        shared_->counters.refused.fetch_add(1, std::memory_order_relaxed);
        continue;
      }
      if (strangers_.size() >= shared_->options.max_strangers) {
        shared_->counters.refused.fetch_add(1, std::memory_order_relaxed);
        Close(strangers_.front());
      }
      if (shared_->options.tls && !socket->UseTlsAsServer(shared_->options.grants).ok()) {
        shared_->census.Abandon();
        continue;
      }
      const int fd = socket->fd();
      Guest guest{.connection = std::make_unique<ServerConnection>(*std::move(socket), shared_->options.grants, &shared_->counters)};
      guest.probation_ends = MonotonicNanos() + absl::ToInt64Nanoseconds(shared_->options.hello_timeout);
      guest.stranger = true;
      guest.order = strangers_.insert(strangers_.end(), fd);
      shared_->strangers.fetch_add(1, std::memory_order_relaxed);
      guests_.emplace(fd, std::move(guest));
      Serve(fd);
    }
  }

  void Serve(int fd, bool is_gone = false) {
    auto it = guests_.find(fd);
    if (it == guests_.end()) return;  // closed by an earlier event of this round
    Guest& guest = it->second;
    if (is_gone && guest.events == EPOLLRDHUP) return Close(fd);  // it waits for bytes to come, and would not look
    const ServerConnection::Next next = guest.connection->Step();
    if (next == ServerConnection::Next::kClosed) return Close(fd);
    if (guest.connection->known() && guest.stranger) {
      if (!Welcome(fd)) return;
    } else if (guest.connection->on_probation() && guest.probation_ends == 0) {
      guest.probation_ends = MonotonicNanos() + absl::ToInt64Nanoseconds(shared_->options.hello_timeout);
      ++probation_;
    }
    if (guest.connection->follows()) {
      followers_.insert(fd);
    } else {
      followers_.erase(fd);
    }
    if (next == ServerConnection::Next::kAgain) again_.push_back(fd);
    const uint32_t wanted = next == ServerConnection::Next::kWritable ? EPOLLOUT : next == ServerConnection::Next::kGrowing ? EPOLLRDHUP : EPOLLIN;
    if (guest.events == wanted) return;
    Watch(guest.events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, wanted);
    guest.events = wanted;
  }

  void ServeFollowers() {
    std::vector<int> due;
    for (int fd : followers_) {
      if (guests_.find(fd)->second.connection->IsDue()) due.push_back(fd);
    }
    for (int fd : due) Serve(fd);
  }

  // A stranger has become known. False when it is not this loop's any more.
  bool Welcome(int fd) {
    Guest& guest = guests_.find(fd)->second;
    ForgetStranger(&guest);
    if (!shared_->census.Introduce(guest.connection->token(), fd)) {
      shared_->counters.refused.fetch_add(1, std::memory_order_relaxed);
      Close(fd);
      return false;
    }
    guest.introduced = true;
    if (!shared_->options.grants->KnowsToken(guest.connection->token())) {  // its session has ended since it said hello: Disconnect did not see it
      Close(fd);
      return false;
    }
    guest.probation_ends = 0;
    Loop* to = loops_[next_loop_++ % loops_.size()];
    if (to == this) return true;
    if (guest.events != 0) Watch(EPOLL_CTL_DEL, fd, 0);
    guest.events = 0;
    auto node = guests_.extract(fd);
    {
      std::lock_guard lock(to->mutex_);
      to->arrivals_.push_back(std::move(node.mapped()));
    }
    to->Wake();
    return false;
  }

  void TakeArrivals() {
    uint64_t count;
    if (read(wake_.get(), &count, sizeof(count)) < 0) count = 0;  // not signalled
    std::vector<Guest> arrivals;
    {
      std::lock_guard lock(mutex_);
      arrivals.swap(arrivals_);
    }
    for (Guest& guest : arrivals) {
      const int fd = guest.connection->fd();
      guests_.emplace(fd, std::move(guest));
      if (!stopping_.load()) Serve(fd);
    }
  }

  void ForgetStranger(Guest* guest) {
    if (!std::exchange(guest->stranger, false)) return;
    strangers_.erase(guest->order);
    shared_->strangers.fetch_sub(1, std::memory_order_relaxed);
  }

  void Close(int fd) {
    auto it = guests_.find(fd);
    Guest& guest = it->second;
    if (!guest.stranger && guest.probation_ends != 0) --probation_;
    ForgetStranger(&guest);
    followers_.erase(fd);
    shared_->census.Leave(*guest.connection, guest.introduced);
    guests_.erase(it);  // closing takes it out of epoll
  }

  void Tick() {
    if (std::exchange(accept_paused_, false)) Watch(EPOLL_CTL_MOD, listener_.get(), EPOLLIN);
    const int64_t now = MonotonicNanos();
    next_tick_ = now + int64_t{kTickMillis} * 1'000'000;
    ServeFollowers();  // a bell that was not heard
    std::vector<int> over;
    for (const auto& [fd, guest] : guests_) {
      if (guest.probation_ends != 0 && guest.probation_ends <= now) over.push_back(fd);
    }
    for (int fd : over) {
      if (!guests_.find(fd)->second.connection->known()) shared_->counters.refused.fetch_add(1, std::memory_order_relaxed);
      Close(fd);
    }
  }

  Shared* const shared_;
  UniqueFd epoll_, wake_, listener_;
  std::vector<Loop*> loops_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;

  std::mutex mutex_;
  std::vector<Guest> arrivals_ ABSL_GUARDED_BY(mutex_);

  // The thread's own.
  std::map<int, Guest> guests_;
  std::list<int> strangers_;  // oldest first
  std::set<int> followers_;   // of channels
  std::vector<int> again_;
  int64_t next_tick_ = 0;
  size_t probation_ = 0;  // refused ones that shall read why
  size_t next_loop_ = 0;
  bool accept_paused_ = false;
};

class StreamServerOnLoops final : public StreamServer {
 public:
  explicit StreamServerOnLoops(const StreamServerOptions& options) : shared_(options) {}
  ~StreamServerOnLoops() override { Stop(); }

  absl::Status Listen() {
    absl::StatusOr<UniqueFd> listener = ListenTcp(shared_.options.host, shared_.options.port);
    if (!listener.ok()) return listener.status();
    const absl::StatusOr<int> port = BoundPort(listener->get());
    if (!port.ok()) return port.status();
    port_ = *port;
    std::vector<Loop*> loops;
    for (int i = 0; i < std::max(1, shared_.options.threads); ++i) loops.push_back(loops_.emplace_back(std::make_unique<Loop>(&shared_)).get());
    loops[0]->HandKnownTo(loops);
    for (size_t i = loops.size(); i-- > 0;) {
      if (absl::Status s = loops[i]->Start(i == 0 ? *std::move(listener) : UniqueFd()); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  void Disconnect(const LaneToken& token) override { shared_.census.ShutDown(token); }
  StreamServerCounts counts() const override {
    const stream::ServerCounters& c = shared_.counters;
    return {.connections = shared_.census.connections(), .strangers = shared_.strangers.load(), .refused = c.refused.load(),
            .requests = c.requests.load(), .sent_bytes = c.sent_bytes.load(), .received_bytes = c.received_bytes.load()};
  }
  void Stop() override {
    for (auto& loop : loops_) loop->Stop();  // the accepting one first: it hands over to the others
  }

 private:
  Shared shared_;
  int port_ = 0;
  std::vector<std::unique_ptr<Loop>> loops_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StreamServer>> StreamServer::Start(const StreamServerOptions& options) {
  if (options.grants == nullptr) return absl::InvalidArgumentError("grants: is missing");
  auto server = std::make_unique<StreamServerOnLoops>(options);
  if (absl::Status s = server->Listen(); !s.ok()) return s;
  return server;
}

}  // namespace penstock
