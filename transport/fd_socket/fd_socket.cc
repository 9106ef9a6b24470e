#include "transport/fd_socket/fd_socket.h"

#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "transport/fd_socket/poll_deadline.h"
#include "transport/sys_error.h"

namespace penstock {
namespace {

constexpr int kBacklog = 256;

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path) ||
      path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("socket path '", path, "' has ", path.size(), " bytes; allowed are 1 to ",
                     sizeof(address.sun_path) - 1, " bytes without NUL"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket() {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return SysError(errno, "socket(AF_UNIX, SOCK_SEQPACKET)");
  return fd;
}

int ConnectRetryingEintr(int fd, const sockaddr_un& address) {
  int rc;
  do {
    rc = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (rc != 0 && errno == EINTR);
  return rc;
}

// Two servers that start at once must not unlink each other's fresh socket: whoever replaces one
// holds a lock on the directory, which needs no lock file and dies with its holder.
absl::StatusOr<UniqueFd> LockDirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "."
                                : slash == 0               ? "/"
                                                           : path.substr(0, slash);
  UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return SysError(errno, absl::StrCat("open directory ", directory));
  constexpr int kTries = 500;  // 5 s: a holder that is stuck or hostile must not hang our start
  for (int i = 0; flock(fd.get(), LOCK_EX | LOCK_NB) != 0; ++i) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return SysError(errno, absl::StrCat("lock directory ", directory));
    }
    if (i == kTries) {
      return absl::UnavailableError(
          absl::StrCat("lock directory ", directory, ": another process holds the lock for 5 s"));
    }
    const timespec pause{0, 10 * 1000 * 1000};
    nanosleep(&pause, nullptr);
  }
  return fd;
}

// Removes a socket file that nobody listens on; OK if there is no file.
absl::Status RemoveStaleSocket(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : SysError(errno, absl::StrCat("lstat ", path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat("listen on ", path, ": exists and is no socket"));
  }
  auto probe = NewSocket();
  if (!probe.ok()) return probe.status();
  if (ConnectRetryingEintr(probe->get(), address) == 0 || errno == EAGAIN) {
    return absl::AlreadyExistsError(
        absl::StrCat("listen on ", path, ": another process listens there"));
  }
  if (errno != ECONNREFUSED) {  // another type of socket, no permission, ...: not ours to remove
    return SysError(errno, absl::StrCat("listen on ", path, ": probe who listens there"));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return SysError(errno, absl::StrCat("unlink stale socket ", path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> Listen(const std::string& path, mode_t mode) {
  const auto address = Address(path);
  if (!address.ok()) return address.status();
  const auto lock = LockDirectoryOf(path);
  if (!lock.ok()) return lock.status();
  if (absl::Status stale = RemoveStaleSocket(path, *address); !stale.ok()) return stale;
  auto fd = NewSocket();
  if (!fd.ok()) return fd.status();
  if (bind(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return SysError(errno, absl::StrCat("bind ", path));
  }
  // Nobody can connect before listen(), so the permissions are right from the first moment.
  absl::Status failed = absl::OkStatus();
  if (chmod(path.c_str(), mode) != 0) {
    failed = SysError(errno, absl::StrCat("chmod ", path));
  } else if (listen(fd->get(), kBacklog) != 0) {
    failed = SysError(errno, absl::StrCat("listen on ", path));
  }
  if (!failed.ok()) {
    unlink(path.c_str());
    return failed;
  }
  return fd;
}

absl::StatusOr<UniqueFd> Connect(const std::string& path) {
  const auto address = Address(path);
  if (!address.ok()) return address.status();
  auto fd = NewSocket();
  if (!fd.ok()) return fd.status();
  if (ConnectRetryingEintr(fd->get(), *address) == 0) return fd;
  if (errno == ENOENT) {
    return absl::UnavailableError(absl::StrCat("connect to ", path, ": no such socket"));
  }
  return SysError(errno, absl::StrCat("connect to ", path));
}

absl::StatusOr<UniqueFd> Accept(int listener, absl::Duration timeout) {
  const PollDeadline deadline(timeout);
  for (;;) {
    if (absl::Status ready = deadline.Wait(listener, POLLIN, "accept"); !ready.ok()) return ready;
    UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) return fd;
    if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED) {
      return SysError(errno, "accept");
    }
  }
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> SocketPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return SysError(errno, "socketpair(AF_UNIX, SOCK_SEQPACKET)");
  }
  return std::make_pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

absl::StatusOr<PeerCredentials> GetPeerCredentials(int socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return SysError(errno, absl::StrCat("SO_PEERCRED of descriptor ", socket));
  }
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

}  // namespace penstock
