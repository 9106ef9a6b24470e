#include "server/warden/parent_watch.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "transport/sys_error.h"

namespace penstock::warden {

absl::Status ParentWatch::Open(int ready_fd) {
  const pid_t parent = getppid();
  if (parent == 0) {
    return absl::FailedPreconditionError(
        "--exit_with_parent: the parent process is in another pid namespace");
  }
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, parent, 0)));
  if (!pidfd_ && errno != ESRCH) return SysError(errno, "pidfd_open of the parent process");
  pollfd reader{ready_fd, 0, 0};
  const bool reader_gone =
      ready_fd >= 0 && poll(&reader, 1, 0) == 1 && (reader.revents & POLLERR) != 0;
  if (!pidfd_ || getppid() != parent || reader_gone) {
    return absl::UnavailableError("--exit_with_parent: the parent process is gone already");
  }
  return absl::OkStatus();
}

}  // namespace penstock::warden
