#include "client/session/fd_channel.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/futex.h"
#include "transport/sys_error.h"

namespace penstock::client {
namespace {

using layout::FdHeader;
using layout::FdType;

constexpr absl::Duration kSlice = absl::Milliseconds(100);

absl::Status Ended() {
  return absl::UnavailableError("the store that this session belonged to has ended");
}

absl::Status RefusalStatus(const layout::RefusalMessage& refusal) {
  const size_t bytes = std::min<size_t>(refusal.text_bytes, sizeof(refusal.text));
  if (refusal.code < 0) return TransportError(std::string_view(refusal.text, bytes));
  auto code = static_cast<absl::StatusCode>(refusal.code);
  if (code == absl::StatusCode::kOk) code = absl::StatusCode::kInternal;
  return absl::Status(code, std::string(refusal.text, bytes));
}

}  // namespace

absl::Status FdReply::Check(FdType type, size_t message_bytes, size_t fd_count) const {
  if (header().type == FdType::kRefusal && size == sizeof(layout::RefusalMessage)) {
    return RefusalStatus(*reinterpret_cast<const layout::RefusalMessage*>(bytes.data()));
  }
  if (header().layout_version != layout::kLayoutVersion) {
    return absl::FailedPreconditionError(
        StrCat("the node speaks layout version ", header().layout_version, ", this client ",
               layout::kLayoutVersion, ": update the older one"));
  }
  if (header().type != type || size != message_bytes || fds.size() != fd_count) {
    return absl::InternalError(StrCat("the node answered with message type ",
                                      static_cast<uint32_t>(header().type), " of ", size,
                                      " bytes and ", fds.size(), " descriptors; expected type ",
                                      static_cast<uint32_t>(type), " of ", message_bytes, " and ",
                                      fd_count));
  }
  return absl::OkStatus();
}

void FdChannel::Open(UniqueFd socket, const std::atomic<uint64_t>* generation) {
  socket_ = std::move(socket);
  generation_ = generation;
  alive_.store(static_cast<bool>(socket_), std::memory_order_release);
}

absl::Status FdChannel::Start() {
  if (running_.load(std::memory_order_acquire)) return absl::OkStatus();
  std::lock_guard<std::mutex> lock(mutex_);
  if (running_.load(std::memory_order_relaxed)) return absl::OkStatus();
  if (!alive()) return Ended();
  if (!wake_) wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return SysError(errno, "eventfd of the fd channel");
  // The thread takes no signals: they are the program's.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int rc = pthread_create(&thread_, nullptr, &FdChannel::ThreadMain, this);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (rc != 0) return SysError(rc, "pthread_create of the fd channel");
  pthread_setname_np(thread_, "penstock");
  running_.store(true, std::memory_order_release);
  return absl::OkStatus();
}

void FdChannel::Stop() {
  if (!running_.load(std::memory_order_acquire)) return;
  stop_.store(true);
  Wake();
  pthread_join(thread_, nullptr);
  running_.store(false);
}

void FdChannel::Wake() {
  const uint64_t one = 1;
  if (wake_) [[maybe_unused]] const ssize_t n = write(wake_.get(), &one, sizeof(one));
}

void FdChannel::ChildReset(UniqueFd socket) {
  pending_.clear();
  wake_.reset();
  running_.store(false);
  stop_.store(false);
  socket_ = std::move(socket);
  alive_.store(static_cast<bool>(socket_), std::memory_order_release);
}

absl::Status FdChannel::Send(const FdHeader* message, size_t bytes, absl::Span<const int> fds,
                             const Deadline& deadline) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!alive()) return Ended();
  return SendMessage(socket_.get(),
                     absl::MakeConstSpan(reinterpret_cast<const char*>(message), bytes), fds,
                     deadline.Left());
}

absl::Status FdChannel::PostBytes(FdHeader* message, size_t bytes) {
  message->magic = layout::kFdMagic;
  message->layout_version = layout::kLayoutVersion;
  message->number = 0;
  return Send(message, bytes, {}, Deadline::After(absl::Seconds(5)));
}

absl::StatusOr<FdReply> FdChannel::CallBytes(FdHeader* message, size_t bytes,
                                             absl::Span<const int> fds, const Deadline& deadline) {
  if (absl::Status s = Start(); !s.ok()) return s;
  message->magic = layout::kFdMagic;
  message->layout_version = layout::kLayoutVersion;
  Pending pending;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    message->number = next_number_++;
    pending_[message->number] = &pending;
  }
  const auto forget = [&] {
    std::lock_guard<std::mutex> lock(mutex_);
    pending_.erase(message->number);
  };
  uint64_t sent_to = generation_ != nullptr ? generation_->load() : 0;
  absl::Status sent = Send(message, bytes, fds, deadline);
  if (!sent.ok()) {
    forget();
    return sent;
  }
  while (pending.done.load(std::memory_order_acquire) == 0) {
    if (!alive() || deadline.Passed()) {
      forget();
      if (pending.done.load(std::memory_order_acquire) != 0) break;
      if (!alive()) return Ended();
      return absl::DeadlineExceededError("the node did not answer on the fd socket in time");
    }
    FutexWait(&pending.done, 0, deadline.Slice(kSlice));
    if (generation_ != nullptr && pending.done.load() == 0) {
      if (const uint64_t now = generation_->load(); now != sent_to) {
        sent_to = now;
        if (sent = Send(message, bytes, fds, deadline); !sent.ok()) {
          forget();
          return sent;
        }
      }
    }
  }
  return std::move(pending.reply);
}

void* FdChannel::ThreadMain(void* self) {
  static_cast<FdChannel*>(self)->Run();
  return nullptr;
}

void FdChannel::Run() {
  bool more_work = true;
  pollfd polled[2] = {{socket_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  while (!stop_.load()) {
    polled[0].revents = polled[1].revents = 0;
    if (poll(polled, 2, more_work ? 0 : -1) < 0 && errno != EINTR) break;
    if (polled[1].revents != 0) {
      uint64_t count;
      [[maybe_unused]] const ssize_t n = read(wake_.get(), &count, sizeof(count));
      more_work = true;
    }
    if (polled[0].revents != 0) {
      if (!ReceiveOne()) break;
      more_work = true;
    } else if (more_work) {
      more_work = handlers_.background && handlers_.background();
    }
  }
  if (!stop_.load()) End();
}

bool FdChannel::ReceiveOne() {
  FdReply message;
  absl::StatusOr<ReceivedMessage> received =
      ReceiveMessage(socket_.get(), absl::MakeSpan(message.bytes), absl::ZeroDuration());
  if (!received.ok()) return absl::IsDeadlineExceeded(received.status());
  if (received->end_of_file) return false;
  message.size = received->size;
  message.fds = std::move(received->fds);
  if (message.size < sizeof(FdHeader) || message.header().magic != layout::kFdMagic) return false;
  if (message.header().number == 0) {
    if (handlers_.notice) handlers_.notice(std::move(message));
    return true;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = pending_.find(message.header().number);
  if (it == pending_.end()) return true;  // its caller gave up; the descriptors are closed here
  Pending* pending = it->second;
  pending_.erase(it);
  pending->reply = std::move(message);
  pending->done.store(1, std::memory_order_release);
  FutexWake(&pending->done);
  return true;
}

void FdChannel::End() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    alive_.store(false, std::memory_order_release);
    for (auto& [number, pending] : pending_) FutexWake(&pending->done);
  }
  if (handlers_.ended) handlers_.ended();
}

}  // namespace penstock::client
