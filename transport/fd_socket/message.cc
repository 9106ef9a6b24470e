// Sending and receiving of one message: the part of the fd socket that reads a peer's bytes.
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/fd_socket/poll_deadline.h"
#include "transport/sys_error.h"

namespace penstock {
namespace {

struct alignas(cmsghdr) ControlBuffer {
  char bytes[CMSG_SPACE(sizeof(int) * kMaxMessageFds)];
};

// Whatever descriptors the kernel installed, wanted or not, get an owner first.
std::vector<UniqueFd> TakeDescriptors(msghdr* header) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(header); part != nullptr; part = CMSG_NXTHDR(header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

absl::Status CheckSend(absl::Span<const char> bytes, absl::Span<const int> fds) {
  if (bytes.empty() || bytes.size() > kMaxMessageBytes) {
    return absl::InvalidArgumentError(absl::StrCat("send message: ", bytes.size(),
                                                   " bytes; allowed are 1 to ", kMaxMessageBytes));
  }
  if (fds.size() > kMaxMessageFds) {
    return absl::InvalidArgumentError(
        absl::StrCat("send message: ", fds.size(), " descriptors; allowed are ", kMaxMessageFds));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SendMessage(int socket, absl::Span<const char> bytes, absl::Span<const int> fds,
                         absl::Duration timeout) {
  if (absl::Status valid = CheckSend(bytes, fds); !valid.ok()) return valid;
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  ControlBuffer control{};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
  }
  const PollDeadline deadline(timeout);
  for (;;) {
    if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return absl::OkStatus();
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return SysError(errno, "send message");
    if (absl::Status ready = deadline.Wait(socket, POLLOUT, "send message"); !ready.ok()) {
      return ready;
    }
  }
}

absl::StatusOr<ReceivedMessage> ReceiveMessage(int socket, absl::Span<char> buffer,
                                               absl::Duration timeout) {
  if (buffer.empty()) return absl::InvalidArgumentError("receive message: the buffer is empty");
  const PollDeadline deadline(timeout);
  for (;;) {
    iovec data{buffer.data(), buffer.size()};
    ControlBuffer control;
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
    const ssize_t received = recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (received < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return SysError(errno, "receive message");
      if (absl::Status ready = deadline.Wait(socket, POLLIN, "receive message"); !ready.ok()) {
        return ready;
      }
      continue;
    }
    ReceivedMessage message;
    message.fds = TakeDescriptors(&header);
    if (header.msg_flags & MSG_TRUNC) {
      return absl::InvalidArgumentError(absl::StrCat(
          "receive message: the peer's message is longer than ", buffer.size(), " bytes"));
    }
    if (header.msg_flags & MSG_CTRUNC) {
      if (message.fds.size() >= kMaxMessageFds) {
        return absl::InvalidArgumentError(absl::StrCat("receive message: the peer sent more than ",
                                                       kMaxMessageFds, " descriptors"));
      }
      return absl::ResourceExhaustedError(
          "receive message: no room for the peer's descriptors (RLIMIT_NOFILE)");
    }
    if (received == 0) {
      message.fds.clear();
      message.end_of_file = true;
      return message;
    }
    message.size = static_cast<size_t>(received);
    return message;
  }
}

}  // namespace penstock
