#include "transport/segment/populate.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/sys_error.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

// The child must not run sanitizer runtime code: their locks may be held by threads it lost.
#if defined(__clang__) || defined(__GNUC__)
#define PENSTOCK_RAW_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))
#endif

namespace penstock {
namespace {

// Everything here is a bare system call: after the clone only this thread exists, and any lock
// (malloc's, stdio's, a sanitizer's) may be held by one that does not.
[[noreturn]] PENSTOCK_RAW_CHILD void RunChild(const PopulateOptions& options, pid_t parent) {
  syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (syscall(SYS_getppid) != parent) syscall(SYS_exit_group, ECANCELED);
  syscall(SYS_close_range, 0u, ~0u, 0u);
  const long score = syscall(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY, 0);
  if (score >= 0) {
    syscall(SYS_write, score, "1000", 4);
    syscall(SYS_close, score);
  }
  if (options.nice != 0) {
    // The raw call counts 40..1 for nice -20..19.
    const long nice = 20 - syscall(SYS_getpriority, PRIO_PROCESS, 0);
    syscall(SYS_setpriority, PRIO_PROCESS, 0, nice + options.nice);
  }
  char* const begin = static_cast<char*>(options.address);
  for (uint64_t done = 0; done < options.length;) {
    const uint64_t left = options.length - done;
    const uint64_t slice = left < options.slice_bytes ? left : options.slice_bytes;
    if (syscall(SYS_madvise, begin + done, slice, MADV_POPULATE_WRITE) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      syscall(SYS_exit_group, errno & 0xff);
    }
    done += slice;
    if (options.progress != nullptr) {
      __atomic_store_n(reinterpret_cast<uint64_t*>(options.progress), done, __ATOMIC_RELEASE);
    }
  }
  syscall(SYS_exit_group, 0);
  __builtin_unreachable();
}

// Exit signal 0: no SIGCHLD in the parent, and waitpid(-1) of other code does not reap it.
PENSTOCK_RAW_CHILD long CloneChild(const PopulateOptions& options) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);  // no handler of the parent runs in the child
  const pid_t parent = getpid();
  const long pid = syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
  if (pid == 0) RunChild(options, parent);
  const int clone_errno = errno;
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  errno = clone_errno;
  return pid;
}

absl::Status ExitStatus(const siginfo_t& info, uint64_t length) {
  const std::string what = absl::StrCat("populate ", length, " bytes in a child process");
  if (info.si_code != CLD_EXITED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        what, ": killed by signal ", info.si_status,
        info.si_status == SIGKILL ? " (memory limit of the cgroup or the host reached)" : ""));
  }
  switch (info.si_status) {
    case 0:
      return absl::OkStatus();
    case EFAULT:  // shmem answers "no space" with the error that would be a SIGBUS
      return absl::ResourceExhaustedError(absl::StrCat(what, ": no page can be provided"));
    case ENOMEM:  // madvise says ENOMEM for a hole in the address range as well
      return absl::ResourceExhaustedError(
          absl::StrCat(what, ": out of memory, or the range is not mapped in the child"));
    case EINVAL:
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": address not page aligned, not writable, or Linux before 5.14"));
    default:
      return SysError(info.si_status, what);
  }
}

}  // namespace

absl::StatusOr<PopulateChild> PopulateChild::Start(const PopulateOptions& options) {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (options.address == nullptr || options.length == 0) {
    return absl::InvalidArgumentError("populate in a child: address and length must not be zero");
  }
  if (reinterpret_cast<uint64_t>(options.address) % page != 0) {
    return absl::InvalidArgumentError("populate in a child: address is not page aligned");
  }
  PopulateOptions rounded = options;
  rounded.slice_bytes = std::max(options.slice_bytes / page, uint64_t{1}) * page;
  const long pid = CloneChild(rounded);
  if (pid < 0) return SysError(errno, "clone a child that populates memory");
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  const int pidfd_errno = errno;
  PopulateChild child(static_cast<pid_t>(pid), std::move(pidfd), options.length);
  if (!child.pidfd_) return SysError(pidfd_errno, "pidfd_open of the child that populates memory");
  return child;
}

PopulateChild::PopulateChild(PopulateChild&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      length_(other.length_) {}

PopulateChild& PopulateChild::operator=(PopulateChild&& other) noexcept {
  if (this != &other) {
    KillAndReap();
    pid_ = std::exchange(other.pid_, -1);
    pidfd_ = std::move(other.pidfd_);
    length_ = other.length_;
  }
  return *this;
}

PopulateChild::~PopulateChild() { KillAndReap(); }

void PopulateChild::KillAndReap() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);  // not reaped yet, so the pid is still ours
  Wait().IgnoreError();
}

absl::Status PopulateChild::Wait() {
  if (pid_ < 0) return absl::FailedPreconditionError("populate child: already waited for");
  siginfo_t info{};
  int rc;
  do {
    rc = waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | __WALL);
  } while (rc != 0 && errno == EINTR);
  pid_ = -1;
  pidfd_.reset();
  if (rc != 0) return SysError(errno, "waitid of the child that populates memory");
  return ExitStatus(info, length_);
}

absl::Status PopulateInChild(void* address, uint64_t length) {
  PopulateOptions options;
  options.address = address;
  options.length = length;
  auto child = PopulateChild::Start(options);
  return child.ok() ? child->Wait() : child.status();
}

}  // namespace penstock
