#include "server/warden/warden_channel.h"

#include <algorithm>
#include <utility>

namespace penstock::warden {

absl::StatusOr<WardenChannel::Answer> WardenChannel::Call(Request request,
                                                          absl::Span<const int> fds) {
  Waiter waiter;
  {
    std::lock_guard lock(mutex_);
    if (!broken_.ok()) return broken_;
    request.number = ++last_number_;
    waiters_.emplace(request.number, &waiter);
  }
  const absl::Status sent = SendInParts(request, fds);
  std::unique_lock lock(mutex_);
  if (!sent.ok() && !waiter.done) {
    waiters_.erase(request.number);
    return sent;
  }
  while (!waiter.done) {
    if (reading_) {
      changed_.wait(lock);
    } else {
      ReadOne(lock);
    }
  }
  return std::move(waiter.result);
}

absl::Status WardenChannel::SendInParts(Request request, absl::Span<const int> fds) {
  std::lock_guard lock(send_mutex_);
  for (;;) {
    const auto part = fds.subspan(0, std::min(fds.size(), kMaxMessageFds));
    fds.remove_prefix(part.size());
    request.flags = fds.empty() ? request.flags & ~uint32_t{kFlagMore} : request.flags | kFlagMore;
    const absl::Status sent = SendMessage(
        socket_.get(), {reinterpret_cast<const char*>(&request), sizeof(request)}, part);
    if (!sent.ok() || fds.empty()) return sent;
  }
}

void WardenChannel::ReadOne(std::unique_lock<std::mutex>& lock) {
  Reply reply;
  reading_ = true;
  lock.unlock();
  auto received = ReceiveMessage(socket_.get(), {reinterpret_cast<char*>(&reply), sizeof(reply)});
  lock.lock();
  reading_ = false;
  if (!received.ok()) {
    Break(received.status());
  } else if (received->end_of_file) {
    Break(absl::UnavailableError("the warden is gone"));
  } else if (received->size != sizeof(reply) || reply.magic != kWardenMagic ||
             reply.text_bytes > sizeof(reply.text)) {
    Break(absl::InternalError("the warden sent a malformed answer"));
  } else {
    Deliver(reply, std::move(received->fds));
  }
  changed_.notify_all();
}

void WardenChannel::Deliver(const Reply& reply, std::vector<UniqueFd> fds) {
  const auto it = waiters_.find(reply.number);
  if (it == waiters_.end()) return;  // the sender gave up when a part could not be sent
  if (reply.code == 0) {
    it->second->result = Answer{reply, std::move(fds)};
  } else {
    it->second->result = absl::Status(static_cast<absl::StatusCode>(reply.code),
                                      absl::string_view(reply.text, reply.text_bytes));
  }
  it->second->done = true;
  waiters_.erase(it);
}

void WardenChannel::Break(const absl::Status& why) {
  broken_ = why;
  for (auto& [number, waiter] : waiters_) {
    waiter->result = why;
    waiter->done = true;
  }
  waiters_.clear();
}

}  // namespace penstock::warden
