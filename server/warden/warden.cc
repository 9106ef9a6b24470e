#include "server/warden/warden.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/warden/node_process.h"
#include "server/warden/parent_watch.h"
#include "server/warden/ready_relay.h"
#include "server/warden/request_server.h"
#include "server/warden/restart_policy.h"
#include "server/warden/segment_table.h"
#include "server/warden/session_table.h"
#include "server/warden/warden_log.h"
#include "transport/monotonic.h"
#include "transport/sys_error.h"

namespace penstock::warden {
namespace {

constexpr uint64_t kScratchBytes = 4096;

// Blocks the signals that end us, to read them from a descriptor instead. SIGINT counts even if a
// script started us in the background with it ignored; an ignored SIGHUP (nohup) stays ignored.
UniqueFd TakeSignals() {
  sigset_t taken;
  sigemptyset(&taken);
  sigaddset(&taken, SIGTERM);
  sigaddset(&taken, SIGINT);
  struct sigaction hangup {};
  sigaction(SIGHUP, nullptr, &hangup);
  if (hangup.sa_handler != SIG_IGN) sigaddset(&taken, SIGHUP);
  sigprocmask(SIG_BLOCK, &taken, nullptr);
  for (const int number : {SIGTERM, SIGINT}) signal(number, SIG_DFL);  // ignored ones never arrive
  return UniqueFd(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
}

class Warden {
 public:
  explicit Warden(const WardenOptions& options)
      : options_(options),
        segments_(options.huge_pages, [this](const std::string& why) { SayOnce(why); }),
        requests_(&segments_, &sessions_, options.node_library),
        ready_(options.ready_fd) {}

  int Run();

 private:
  absl::Status Prepare();
  void Start();
  void Step();
  void Wait(std::vector<pollfd>* fds);
  int PollTimeout() const;
  void OnSignals();
  void OnDeath();
  void OnRestart(const std::string& version);
  void OnDeadlines();
  void Stop(const std::string& why);
  void CutOffNode(const absl::Status& why);
  void SayOnce(const std::string& text) {
    if (said_.insert(text).second) LogLine(text);
  }
  bool alive() const { return node_.pid > 0; }

  const WardenOptions& options_;
  SegmentTable segments_;
  SessionTable sessions_;
  RequestServer requests_;
  ReadyRelay ready_;
  ParentWatch parent_;
  RestartPolicy restarts_;
  std::set<std::string> said_;
  UniqueFd signals_;
  void* scratch_ = nullptr;
  UniqueFd bell_;
  uint64_t started_ns_ = 0;
  uint64_t generation_ = 0;
  NodeProcess node_;
  absl::Time start_at_ = absl::InfiniteFuture();  // of the next node, while there is none
  bool stopping_ = false;
  bool restarting_ = false;  // the node ends because it was asked to, for the next one
  absl::Time kill_at_ = absl::InfiniteFuture();
  std::optional<int> exit_code_;
};

absl::Status Warden::Prepare() {
  started_ns_ = static_cast<uint64_t>(absl::GetCurrentTimeNanos());
  scratch_ =
      mmap(nullptr, kScratchBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (scratch_ == MAP_FAILED) return SysError(errno, "mmap of the node's scratch page");
  bell_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell_) return SysError(errno, "eventfd");
  signals_ = TakeSignals();
  if (!signals_) return SysError(errno, "signalfd");
  return options_.exit_with_parent ? parent_.Open(options_.ready_fd) : absl::OkStatus();
}

int Warden::Run() {
  if (absl::Status prepared = Prepare(); !prepared.ok()) {
    LogLine(absl::StrCat("cannot start: ", std::string(prepared.message())));
    return 1;
  }
  Start();
  while (!exit_code_) Step();
  return *exit_code_;
}

void Warden::Start() {
  start_at_ = absl::InfiniteFuture();
  NodeBirth birth;
  birth.config = options_.config;
  birth.library = options_.node_library;
  birth.generation = ++generation_;
  birth.started_ns = started_ns_;
  birth.fd_listener = options_.fd_listener;
  birth.bell_fd = bell_.get();
  birth.scratch = scratch_;
  birth.segments = &segments_;
  birth.sessions = &sessions_;
  StartOptions how;
  how.announce = !ready_.told();
  how.forget_in_child = {signals_.get(), parent_.fd(), ready_.fd()};
  auto node = StartNode(birth, how);
  if (node.ok()) {
    node_ = *std::move(node);
    return;
  }
  const absl::Duration delay = std::max(restarts_.OnDeath(MonotonicNow()), absl::Milliseconds(100));
  LogLine(absl::StrCat("cannot start a node: ", std::string(node.status().message()), "; again in ",
                       absl::FormatDuration(delay)));
  start_at_ = MonotonicNow() + delay;
}

int Warden::PollTimeout() const {
  const absl::Duration left = std::min(start_at_, kill_at_) - MonotonicNow();
  if (left == absl::InfiniteDuration()) return -1;
  return static_cast<int>(
      std::clamp(absl::ToInt64Milliseconds(left) + 1, int64_t{0}, int64_t{60'000}));
}

// Negative descriptors are skipped by poll: an entry for what is not there costs nothing.
void Warden::Wait(std::vector<pollfd>* fds) {
  *fds = {{signals_.get(), POLLIN, 0},
          {parent_.fd(), POLLIN, 0},
          {node_.pidfd.get(), POLLIN, 0},
          {node_.socket.get(), POLLIN, 0},
          {node_.ready.get(), POLLIN, 0}};
  requests_.AppendPollFds(fds);
  if (poll(fds->data(), fds->size(), PollTimeout()) < 0) {
    for (pollfd& fd : *fds) fd.revents = 0;  // EINTR: look again
  }
}

void Warden::Step() {
  std::vector<pollfd> fds;
  Wait(&fds);
  if (fds[0].revents != 0) OnSignals();
  if (fds[1].revents != 0) {
    parent_.Close();
    Stop("the parent process is gone");
  }
  if (fds[4].revents != 0 && ready_.OnReadable(node_.ready.get())) node_.ready.reset();
  if (fds[2].revents != 0) {
    OnDeath();
  } else if (alive() && node_.socket) {
    absl::Status served = requests_.OnChildren(node_.socket.get());
    if (fds[3].revents != 0) served.Update(requests_.OnReadable(node_.socket.get()));
    if (!served.ok()) CutOffNode(served);
    if (const auto version = requests_.TakeRestart()) OnRestart(*version);
  }
  OnDeadlines();
}

void Warden::OnSignals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    // A second Ctrl-C: somebody is in a hurry.
    if (stopping_ && info.ssi_signo == SIGINT) kill(node_.pid, SIGKILL);
    Stop(absl::StrCat("signal ", info.ssi_signo));
  }
}

void Warden::Stop(const std::string& why) {
  if (!alive()) {
    LogLine(absl::StrCat(why, ": stopping"));
    exit_code_ = 0;
    return;
  }
  if (stopping_) return;
  LogLine(absl::StrCat(why, ": stopping the node"));
  stopping_ = true;
  kill_at_ = MonotonicNow() + options_.stop_timeout;
  kill(node_.pid, SIGTERM);
}

void Warden::OnRestart(const std::string& version) {
  LogLine(absl::StrCat("node ", node_.pid, " makes room for the next one, of version ", version));
  restarting_ = true;
  if (!stopping_) kill_at_ = MonotonicNow() + options_.stop_timeout;
}

// It closed its socket (a death that shows on the pidfd next) or breaks the protocol.
void Warden::CutOffNode(const absl::Status& why) {
  if (!absl::IsUnavailable(why)) {
    LogLine(absl::StrCat("node ", node_.pid, " is killed: ", std::string(why.message())));
  }
  node_.socket.reset();
  kill(node_.pid, SIGKILL);
}

void Warden::OnDeadlines() {
  const absl::Time now = MonotonicNow();
  if (now >= kill_at_ && alive()) {
    kill_at_ = absl::InfiniteFuture();
    LogLine(absl::StrCat("node ", node_.pid, " did not stop within ",
                         absl::FormatDuration(options_.stop_timeout), ": killed"));
    kill(node_.pid, SIGKILL);
  }
  if (now >= start_at_ && !exit_code_) Start();
}

void Warden::OnDeath() {
  int status = 0;
  while (waitpid(node_.pid, &status, 0) < 0 && errno == EINTR) {
  }
  const pid_t pid = node_.pid;
  // What it said last counts: it may have served and died before we looked.
  if (node_.ready) ready_.OnReadable(node_.ready.get());
  node_ = NodeProcess{};
  requests_.Abandon();
  const bool exited = WIFEXITED(status);
  if (std::exchange(restarting_, false) && !stopping_) {  // however it ended: this death was wanted, and counts for none
    kill_at_ = absl::InfiniteFuture();
    Start();
    return;
  }
  if (exited && WEXITSTATUS(status) == 0) {
    exit_code_ = 0;
    return;
  }
  const std::string end = absl::StrCat("node ", pid, " ended with ", DescribeExit(status));
  if (stopping_) {
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) {  // before it had a handler
      exit_code_ = 0;
      return;
    }
    LogLine(absl::StrCat(end, " instead of stopping gracefully"));
    exit_code_ = 1;
    return;
  }
  const absl::Duration delay = restarts_.OnDeath(MonotonicNow());
  if (!ready_.told() && (exited || delay > absl::ZeroDuration())) {
    LogLine(absl::StrCat(end, " before it served: giving up"));
    exit_code_ = exited ? WEXITSTATUS(status) : 1;
    return;
  }
  LogLine(absl::StrCat(
      end, delay == absl::ZeroDuration()
               ? std::string(": forked again")
               : absl::StrCat(", ", restarts_.recent_deaths(), " deaths within 10s: next start in ",
                              absl::FormatDuration(delay))));
  start_at_ = MonotonicNow() + delay;
}

}  // namespace

int RunWarden(const WardenOptions& options) { return Warden(options).Run(); }

}  // namespace penstock::warden
