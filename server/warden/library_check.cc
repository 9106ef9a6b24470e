#include "server/warden/library_check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/warden/load_node.h"
#include "server/warden/node_process.h"
#include "transport/sys_error.h"

namespace penstock::warden {
namespace {

constexpr unsigned kLongestSeconds = 20;
constexpr size_t kMaxText = 4096;  // a pipe takes it at once

[[noreturn]] void RunChild(const std::string& library, int out, pid_t warden) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != warden) _exit(1);
  prctl(PR_SET_NAME, "penstock-check");
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGALRM}) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  alarm(kLongestSeconds);
  const absl::StatusOr<LoadedNode> node = LoadNode(library);
  const std::string text = node.ok() ? node->version : std::string(node.status().message());
  const ssize_t written = write(out, text.data(), std::min(text.size(), kMaxText));
  _exit(node.ok() && written >= 0 ? 0 : 1);  // nothing of the warden's is ours to destroy
}

int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

absl::StatusOr<LibraryCheck> LibraryCheck::Start(const std::string& library) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return SysError(errno, "pipe2");
  LibraryCheck check;
  check.library_ = library;
  check.told_.reset(ends[0]);
  const UniqueFd out(ends[1]);
  fflush(nullptr);
  const pid_t warden = getpid();
  check.pid_ = fork();
  if (check.pid_ < 0) return SysError(errno, "fork a check of the node library");
  if (check.pid_ == 0) RunChild(library, out.get(), warden);
  check.pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, check.pid_, 0)));
  if (!check.pidfd_) return SysError(errno, "pidfd_open of a check of the node library");
  return check;
}

LibraryCheck::LibraryCheck(LibraryCheck&& other) noexcept
    : library_(std::move(other.library_)), pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)), told_(std::move(other.told_)) {}

LibraryCheck::~LibraryCheck() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  WaitFor(pid_);
}

absl::StatusOr<std::string> LibraryCheck::Wait() {
  const int status = WaitFor(std::exchange(pid_, -1));
  char text[kMaxText];
  const ssize_t bytes = std::max<ssize_t>(read(told_.get(), text, sizeof(text)), 0);
  std::string said(text, static_cast<size_t>(bytes));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return said;
  if (WIFEXITED(status) && !said.empty()) return absl::FailedPreconditionError(said);
  return absl::FailedPreconditionError(
      absl::StrCat(library_, " ends who loads it: ", DescribeExit(status)));
}

}  // namespace penstock::warden
