#include "server/ring/ring_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr uint64_t kRingWakeTag = 0;  // session ids begin with 1
constexpr absl::Duration kSpin = absl::Microseconds(40);
constexpr size_t kBurst = 256;    // requests of one session before the next one gets its turn

inline void Relax() { __builtin_ia32_pause(); }

void Signal(int fd) {
  const uint64_t one = 1;
  if (write(fd, &one, sizeof(one)) < 0) return;  // full counter: it is signalled already
}

void Drop(int fd) {
  uint64_t count;
  if (read(fd, &count, sizeof(count)) < 0) return;  // not signalled
}

}  // namespace

absl::StatusOr<std::unique_ptr<RingServer>> RingServer::Start(StoreService* service, RemoteStore* remote) {
  std::unique_ptr<RingServer> server(new RingServer(service, remote));
  server->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  server->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!server->epoll_ || !server->wake_) return ErrnoStatus(errno, "ring server: epoll or eventfd");
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kRingWakeTag}};
  if (epoll_ctl(server->epoll_.get(), EPOLL_CTL_ADD, server->wake_.get(), &event) != 0) return ErrnoStatus(errno, "ring server: epoll_ctl");
  server->thread_ = std::thread([raw = server.get()] { raw->Run(); });
  return server;
}

void RingServer::Add(std::shared_ptr<Session> session) {
  {
    std::lock_guard lock(mutex_);
    added_.push_back(std::move(session));
    changes_.store(true);
  }
  Signal(wake_.get());
}

void RingServer::Remove(uint64_t session) {
  {
    std::lock_guard lock(mutex_);
    removed_.push_back(session);
    changes_.store(true);
  }
  Signal(wake_.get());
}

void RingServer::Wake(uint64_t name_hash) {
  if (name_hash != 0) {
    std::lock_guard lock(mutex_);
    changed_names_.push_back(name_hash);
  }
  if (!woken_.exchange(true)) Signal(wake_.get());
}

void RingServer::Stop() {
  stopping_.store(true);
  Signal(wake_.get());
  if (thread_.joinable()) thread_.join();
}

void RingServer::TakeChanges() {
  std::vector<std::shared_ptr<Session>> added;
  std::vector<uint64_t> removed;
  {
    std::lock_guard lock(mutex_);
    added.swap(added_);
    removed.swap(removed_);
    changes_.store(false);
  }
  for (std::shared_ptr<Session>& session : added) {
    const uint64_t id = session->id;
    Ring ring{.session = std::move(session)};
    ring.head = ring.session->ring()->head.load();
    ring.active = true;  // looked at once; the first sleep arms its eventfd
    epoll_event event{.events = EPOLLIN, .data = {.u64 = id}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, ring.session->eventfd(), &event);
    rings_.insert_or_assign(id, std::move(ring));
  }
  for (uint64_t id : removed) {
    auto it = rings_.find(id);
    if (it == rings_.end()) continue;
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, it->second.session->eventfd(), nullptr);
    parked_.RemoveSession(id);
    rings_.erase(it);
  }
}

void RingServer::Run() {
  absl::Time last_work = MonotonicNow();
  while (!stopping_.load(std::memory_order_relaxed)) {
    if (changes_.load()) TakeChanges();
    if (woken_.exchange(false)) RetryChanged();
    const bool worked = ServeActive();
    if (remote_ != nullptr) remote_->Flush();
    const absl::Time now = MonotonicNow();
    // Also while others keep the thread busy: a timeout is a promise.
    if (parked_.next_deadline() <= now) RetryLate(now);
    if (throttled_) {  // nothing to spin for: the next request comes by the clock
      AwaitEvents(std::min(parked_.next_deadline(), service_->rate().next()) - now);
      last_work = MonotonicNow();
      continue;
    }
    if (worked) {
      last_work = now;
      continue;
    }
    if (now - last_work < kSpin) {
      for (int i = 0; i < 20; ++i) Relax();
      continue;
    }
    if (!TrySleep()) continue;
    AwaitEvents(parked_.next_deadline() - now);
    last_work = MonotonicNow();
  }
}

bool RingServer::ServeActive() {
  bool worked = false;
  throttled_ = false;
  if (service_->rate().limited()) return ServeByTurns();
  for (auto& [id, ring] : rings_) {
    if (ring.active && Drain(ring, kBurst) > 0) worked = true;
  }
  return worked;
}

// One request a session, then the next session's: who asks much does not get more of the rate than who asks little.
bool RingServer::ServeByTurns() {
  bool worked = false;
  auto next = rings_.upper_bound(last_turn_);
  for (size_t left = rings_.size(); left > 0; --left, ++next) {
    if (next == rings_.end()) next = rings_.begin();
    if (next->second.active && Drain(next->second, 1) > 0) {
      worked = true;
      last_turn_ = next->first;
    }
    if (throttled_) break;  // for the others, too
  }
  return worked;
}

bool RingServer::TakeTurn(Ring& ring) {
  RequestRate& rate = service_->rate();
  if (!rate.limited()) return true;
  if (rate.Take(MonotonicNow())) {
    ring.waits_for_turn = false;
    return true;
  }
  if (!std::exchange(ring.waits_for_turn, true)) rate.CountWait();
  throttled_ = true;
  return false;
}

// Arms the eventfd of every active ring. False when one of them got work meanwhile.
bool RingServer::TrySleep() {
  for (auto& [id, ring] : rings_) {
    if (!ring.active) continue;
    layout::RingHeader* header = ring.session->ring();
    header->node_sleeping.store(1, std::memory_order_seq_cst);
    if (header->tail.load(std::memory_order_seq_cst) != ring.head && !ring.session->cut_off.load()) {
      header->node_sleeping.store(0, std::memory_order_relaxed);
      return false;
    }
    ring.active = false;
  }
  service_->store()->SetParked(!parked_.empty());
  return true;
}

void RingServer::AwaitEvents(absl::Duration timeout) {
  int milliseconds = -1;
  if (timeout != absl::InfiniteDuration()) {
    milliseconds = static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(timeout) + 1, 0, 1000));
  }
  epoll_event events[64];
  const int count = epoll_wait(epoll_.get(), events, 64, milliseconds);
  for (int i = 0; i < count; ++i) {
    const uint64_t tag = events[i].data.u64;  // epoll_event is packed: no references into it
    if (tag == kRingWakeTag) {
      Drop(wake_.get());
      continue;
    }
    auto it = rings_.find(tag);
    if (it == rings_.end()) continue;
    Drop(it->second.session->eventfd());
    it->second.session->ring()->node_sleeping.store(0, std::memory_order_relaxed);
    it->second.active = true;
  }
}

size_t RingServer::Drain(Ring& ring, size_t most) {
  layout::RingHeader* header = ring.session->ring();
  size_t served = 0;
  while (served < most && !ring.session->cut_off.load(std::memory_order_relaxed)) {
    const uint32_t tail = header->tail.load(std::memory_order_acquire);
    if (tail == ring.head) break;
    if (tail - ring.head > layout::kQueueEntries) {
      CutOff(ring, absl::FailedPreconditionError(StrCat("ring: tail ", tail, " is more than the queue ahead of head ", ring.head)));
      break;
    }
    if (!TakeTurn(ring)) break;
    RingRequest& request = scratch_;
    const uint32_t unit = __atomic_load_n(&header->queue[ring.head % layout::kQueueEntries], __ATOMIC_RELAXED);
    if (absl::Status s = ReadRequest(ring.session->ring_base(), unit, &request); !s.ok()) {
      CutOff(ring, s);
      break;
    }
    if (tail != ring.head + 1) PrefetchRequest(ring.session->ring_base(), header->queue[(ring.head + 1) % layout::kQueueEntries]);
    if (IsUnanswered(request)) Serve(ring, request);
    PENSTOCK_FAULT_POINT("node.ring.answered");
    ++ring.head;
    header->head.store(ring.head, std::memory_order_release);
    ring.session->requests.fetch_add(1, std::memory_order_relaxed);
    ++served;
  }
  return served;
}

void RingServer::Serve(Ring& ring, const RingRequest& request) {
  Parking parking;
  if (Execute(*ring.session, request, /*last_chance=*/false, &parking) != Outcome::kPark) return;
  const size_t parked = parked_.count(ring.session->id);
  if (parked >= kMaxParked) {
    Respond(request, absl::ResourceExhaustedError(StrCat("this session has ", parked, " requests waiting; let some end")), {});
    return;
  }
  parked_.Add({ring.session, request, parking});
  service_->store()->SetParked(true);
  // What it waits for may have come between the attempt and the line above.
  {
    std::lock_guard lock(mutex_);
    changed_names_.push_back(parking.name_hash);
  }
  woken_.store(true);
}

void RingServer::RetryChanged() {
  std::vector<uint64_t> names;
  {
    std::lock_guard lock(mutex_);
    names.swap(changed_names_);
  }
  parked_.RetryChanged(names, MonotonicNow(), [this](ParkedRequest& parked, bool late) { return Retry(parked, late); });
}

void RingServer::RetryLate(absl::Time now) {
  parked_.RetryLate(now, [this](ParkedRequest& parked, bool late) { return Retry(parked, late); });
}

bool RingServer::Retry(ParkedRequest& parked, bool late) {
  return Execute(*parked.session, parked.request, late, &parked.parking) != Outcome::kPark;
}

void RingServer::CutOff(Ring& ring, const absl::Status& why) {
  ring.session->cut_off.store(true);
  service_->store()->LogEvent(v1::Event::SESSION, StrCat("session ", ring.session->id, " (pid ", ring.session->peer.pid, ") cut off: ",
                                                         std::string(why.message())));
  shutdown(ring.session->socket(), SHUT_RDWR);  // end-of-file there ends the session
}

}  // namespace penstock::server
