#include "client/session/fork.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "client/session/own_rdma.h"
#include "client/session/remote_reads.h"
#include "client/session/session.h"
#include "transport/fault_point.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::client {

// The hand-over of one session, between prepare and child.
struct Session::Fork {
  Session* session = nullptr;
  bool had_pins = false;
  bool was_ended = false;  // then nobody reuses the memory: views stay good without any node
  bool handed_over = false;
  UniqueFd socket;
  std::vector<UniqueFd> pins;
  uint64_t child_id = 0;

  void Prepare();
  void HandOver();
  void Unlock();
  void InChild();
};

namespace {

constexpr absl::Duration kHandOverTimeout = absl::Seconds(2);

struct State {
  std::mutex mutex;
  std::vector<Session*> sessions;
  std::vector<std::mutex*> mutexes;
  std::vector<Session::Fork*> forks;  // of the fork that is happening
};

void Prepare();
void InParent();
void InChild();

std::atomic<uint64_t> fork_count_of_process{0};

State& TheState() {
  static State* state = [] {
    pthread_atfork(&Prepare, &InParent, &InChild);
    return new State;
  }();
  return *state;
}

void Prepare() {
  OwnRdma::Get().BeforeFork();
  State& state = TheState();
  state.mutex.lock();
  // Exchanges with the node first: until they are done, the channels' threads need the locks.
  for (Session* session : state.sessions) {
    auto* fork = new Session::Fork;
    fork->session = session;
    state.forks.push_back(fork);
    fork->HandOver();
  }
  PinTable::RegistryMutex().lock();
  for (Session::Fork* fork : state.forks) fork->Prepare();
}

void InParent() {
  State& state = TheState();
  for (Session::Fork* fork : state.forks) {
    fork->Unlock();
    fork->session->pins().Thaw();
    delete fork;
  }
  state.forks.clear();
  PinTable::RegistryMutex().unlock();
  state.mutex.unlock();
}

void InChild() {
  State& state = TheState();
  fork_count_of_process.fetch_add(1);
  for (Session::Fork* fork : state.forks) {
    fork->InChild();
    fork->Unlock();
    delete fork;
  }
  for (std::mutex* mutex : state.mutexes) new (mutex) std::mutex;
  state.forks.clear();
  PinTable::RegistryMutex().unlock();
  state.mutex.unlock();
}

}  // namespace

void Session::Fork::HandOver() {
  PinTable& pin_table = session->pins_;
  pin_table.Freeze();
  had_pins = pin_table.AnyPinned();
  was_ended = session->ended();
  if (!had_pins || was_ended) return;
  absl::StatusOr<std::vector<UniqueFd>> copies = pin_table.CopyChunks();
  absl::StatusOr<std::pair<UniqueFd, UniqueFd>> ends = SocketPair();
  if (!copies.ok() || !ends.ok() || copies->size() + 1 > kMaxMessageFds) return;
  std::vector<int> fds = {ends->second.get()};
  for (const UniqueFd& copy : *copies) fds.push_back(copy.get());
  layout::ForkMessage message{};
  message.pin_chunks = static_cast<uint32_t>(copies->size());
  const absl::StatusOr<FdReply> reply = session->channel_.Call(
      message, layout::FdType::kFork, fds, Deadline::After(kHandOverTimeout));
  if (!reply.ok()) return;
  const auto done = reply->As<layout::DoneMessage>(layout::FdType::kDone, 0);
  if (!done.ok()) return;
  PENSTOCK_FAULT_POINT("client.fork.handed_over");
  child_id = (*done)->value;
  socket = std::move(ends->first);
  pins = *std::move(copies);
  handed_over = true;
}

// All are leaf locks: no thread waits for one of them while it holds another.
void Session::Fork::Prepare() {
  session->channel_.mutex().lock();
  session->segments_.mutex().lock();
  session->catalog_.mutex().lock();
  session->pins_.mutex().lock();
  session->ring_.mutex().lock();
  session->remote_reads_->mutex().lock();  // the child gets tokens of its own, and with them other lanes
}

void Session::Fork::Unlock() {
  session->remote_reads_->mutex().unlock();
  session->ring_.mutex().unlock();
  session->pins_.mutex().unlock();
  session->catalog_.mutex().unlock();
  session->segments_.mutex().unlock();
  session->channel_.mutex().unlock();
}

void Session::Fork::InChild() {
  // Their holders, if any, are threads that the child does not have.
  new (&session->open_ring_mutex_) std::mutex;
  new (&session->extent_mutex_) std::mutex;
  session->id_.store(child_id);
  session->channel_.ChildReset(std::move(socket));
  session->segments_.ChildReset();
  session->ring_.ChildReset();
  session->remote_reads_->ChildReset();
  const bool pinned = session->pins_.ChildReset(pins);
  if (handed_over && pinned) return;
  session->OnEnded();
  if (had_pins && !was_ended) session->segments_.MakeInaccessible();
}

void ForkList::Add(Session* session) {
  State& state = TheState();
  std::lock_guard<std::mutex> lock(state.mutex);
  state.sessions.push_back(session);
}

void ForkList::Remove(Session* session) {
  State& state = TheState();
  std::lock_guard<std::mutex> lock(state.mutex);
  std::erase(state.sessions, session);
}

void ForkList::AddMutex(std::mutex* mutex) {
  State& state = TheState();
  std::lock_guard<std::mutex> lock(state.mutex);
  state.mutexes.push_back(mutex);
}

void ForkList::RemoveMutex(std::mutex* mutex) {
  State& state = TheState();
  std::lock_guard<std::mutex> lock(state.mutex);
  std::erase(state.mutexes, mutex);
}

uint64_t ForkList::fork_count() { return fork_count_of_process.load(); }

}  // namespace penstock::client
