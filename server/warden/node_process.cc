#include "server/warden/node_process.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/warden/connect_warden.h"
#include "server/warden/load_node.h"
#include "server/warden/warden_log.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/sys_error.h"

namespace penstock::warden {
namespace {

// The warden blocks signals to read them from a descriptor; a node handles its own. Ctrl-C reaches
// the whole foreground group, and the warden passes it on as SIGTERM: once is enough.
void ResetSignals() {
  signal(SIGINT, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGTERM, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void RunChild(const NodeBirth& birth, UniqueFd socket, UniqueFd ready, pid_t warden) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != warden) _exit(1);  // it died before the line above
  prctl(PR_SET_NAME, "penstock-node");
  ResetSignals();
  NodeContext context;
  context.config = birth.config;
  context.generation = birth.generation;
  context.fd_listener = birth.fd_listener;
  context.bell_fd = birth.bell_fd;
  context.ready_fd = ready.release();  // the node closes it
  context.warden_pid = static_cast<uint32_t>(warden);
  context.started_ns = birth.started_ns;
  context.scratch = birth.scratch;
  context.segments = birth.segments->Inherit();
  context.sessions = birth.sessions->Inherit();
  context.warden = ConnectWarden(std::move(socket));
  const absl::StatusOr<LoadedNode> node = LoadNode(birth.library);
  if (!node.ok()) LogLine(absl::StrCat("cannot load the node: ", std::string(node.status().message())));
  const int code = node.ok() ? node->main(&context) : kExitNoLibrary;
  fflush(nullptr);
  _exit(code);  // the warden's objects are not ours to destroy
}

}  // namespace

absl::StatusOr<NodeProcess> StartNode(const NodeBirth& birth, const StartOptions& options) {
  auto ends = SocketPair();
  if (!ends.ok()) return ends.status();
  UniqueFd ready_read, ready_write;
  if (options.announce) {
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) return SysError(errno, "pipe2");
    ready_read.reset(pipe_ends[0]);
    ready_write.reset(pipe_ends[1]);
  }
  fflush(nullptr);  // what is buffered must not be written twice
  const pid_t warden = getpid();
  const pid_t pid = fork();
  if (pid < 0) return SysError(errno, "fork the node");
  if (pid == 0) {
    ends->first.reset();
    ready_read.reset();
    for (const int fd : options.forget_in_child) close(fd);
    RunChild(birth, std::move(ends->second), std::move(ready_write), warden);
  }
  NodeProcess node;
  node.pid = pid;
  node.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!node.pidfd) {
    const absl::Status failed = SysError(errno, "pidfd_open of the node");
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return failed;
  }
  node.socket = std::move(ends->first);
  node.ready = std::move(ready_read);
  return node;
}

std::string DescribeExit(int wait_status) {
  if (WIFEXITED(wait_status)) return absl::StrCat("exit code ", WEXITSTATUS(wait_status));
  const int number = WTERMSIG(wait_status);
  return absl::StrCat("signal ", number, " (", strsignal(number), ")");
}

}  // namespace penstock::warden
