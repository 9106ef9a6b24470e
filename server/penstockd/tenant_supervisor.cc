#include "server/penstockd/tenant_supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "server/penstockd/flag_table.h"
#include "server/penstockd/tenant_process.h"
#include "server/penstockd/tenants_file.h"
#include "server/warden/node_process.h"
#include "server/warden/parent_watch.h"
#include "transport/monotonic.h"

namespace penstock::server {
namespace {

constexpr int kExitBadFile = 2;
constexpr absl::Duration kFirstDelay = absl::Milliseconds(100), kLongestDelay = absl::Seconds(30);
constexpr absl::Duration kStopTimeout = absl::Seconds(15);  // a warden gives its node 10 s

struct Tenant {
  TenantSpec spec;
  TenantProcess process;
  bool serves = false;
  bool leaving = false;  // the file does not list it any more
  absl::Time start_at = absl::InfinitePast();
  absl::Time kill_at = absl::InfiniteFuture();
  absl::Duration delay = kFirstDelay;
  bool alive() const { return process.pid > 0; }
};

class Supervisor {
 public:
  Supervisor(const NodeConfig& config, TenantHost host) : config_(config), host_(std::move(host)), ready_fd_(config.ready_fd) {}
  int Run();

 private:
  absl::StatusOr<std::vector<TenantSpec>> ReadFile() const;
  absl::Status Prepare();
  void Step();
  void OnSignals();
  void OnReload();
  void OnDeaths();
  void OnEnd(Tenant& tenant, int status);
  void OnReady(Tenant& tenant);
  void StartDue();
  void StopAll(const std::string& why);
  void Stop(Tenant& tenant);
  void TellReady();
  absl::Time NextDeadline() const;
  void Log(const std::string& text) const {
    std::fprintf(stderr, "%s penstockd tenants[%d]: %s\n", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()).c_str(), getpid(), text.c_str());
  }

  const NodeConfig& config_;
  const TenantHost host_;
  int ready_fd_;  // -1: told, or nobody asks
  std::map<std::string, Tenant> tenants_;
  UniqueFd signals_;
  warden::ParentWatch parent_;
  bool stopping_ = false;
  bool killed_ = false;
};

absl::StatusOr<std::vector<TenantSpec>> Supervisor::ReadFile() const {
  absl::StatusOr<std::vector<TenantSpec>> specs = ReadTenantsFile(config_.tenants_file);
  if (!specs.ok()) return specs;
  for (const TenantSpec& spec : *specs) {
    if (absl::Status s = CheckIdentity(spec); !s.ok()) return s;
    if (host_.cluster.size() + 1 + spec.name.size() > kMaxLabelLetters) {
      return absl::InvalidArgumentError(StrCat("tenant '", spec.name, "': its cluster '", host_.cluster, ".", spec.name, "' would have more than ", kMaxLabelLetters, " letters"));
    }
  }
  const absl::StatusOr<MemoryLimit> limit = ReadMemoryLimit();
  if (!limit.ok()) return limit.status();
  if (absl::Status s = CheckMemory(*specs, *limit); !s.ok()) return s;
  return specs;
}

absl::Status Supervisor::Prepare() {
  if (!config_.node_id.empty()) return absl::InvalidArgumentError("flag --node_id cannot stand beside --tenants: each tenant's node is another one; write it into their sections");
  absl::StatusOr<std::vector<TenantSpec>> specs = ReadFile();
  if (!specs.ok()) return specs.status();
  for (TenantSpec& spec : *specs) tenants_[spec.name].spec = std::move(spec);
  std::error_code error;
  if (std::filesystem::create_directories(config_.socket_dir, error)) chmod(config_.socket_dir.c_str(), 0755);  // tenants pass through it
  if (error) return absl::PermissionDeniedError(StrCat("flag --socket_dir: cannot make '", config_.socket_dir, "': ", error.message()));
  sigset_t taken;
  sigemptyset(&taken);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) {
    sigaddset(&taken, number);
    signal(number, SIG_DFL);  // ignored ones never arrive
  }
  sigprocmask(SIG_BLOCK, &taken, nullptr);
  signals_.reset(signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return ErrnoStatus(errno, "signalfd");
  if (ready_fd_ >= 0) fcntl(ready_fd_, F_SETFD, FD_CLOEXEC);
  return config_.exit_with_parent ? parent_.Open(ready_fd_) : absl::OkStatus();
}

int Supervisor::Run() {
  if (const absl::Status s = Prepare(); !s.ok()) {
    std::fprintf(stderr, "penstockd: %s\n", std::string(s.message()).c_str());
    return absl::IsInvalidArgument(s) ? kExitBadFile : 1;
  }
  while (!stopping_ || std::any_of(tenants_.begin(), tenants_.end(), [](const auto& one) { return one.second.alive(); })) Step();
  return killed_ ? 1 : 0;
}

absl::Time Supervisor::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [name, tenant] : tenants_) next = std::min(next, tenant.alive() ? tenant.kill_at : stopping_ ? absl::InfiniteFuture() : tenant.start_at);
  return next;
}

void Supervisor::Step() {
  StartDue();
  std::vector<pollfd> fds = {{signals_.get(), POLLIN, 0}, {parent_.fd(), POLLIN, 0}};
  std::vector<Tenant*> of;
  for (auto& [name, tenant] : tenants_) {
    if (!tenant.process.ready) continue;
    fds.push_back({tenant.process.ready.get(), POLLIN, 0});
    of.push_back(&tenant);
  }
  const absl::Duration left = std::clamp(NextDeadline() - MonotonicNow(), absl::ZeroDuration(), absl::Seconds(60));
  if (poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(left)) + 1) <= 0) {
    for (pollfd& fd : fds) fd.revents = 0;
  }
  for (size_t i = 0; i < of.size(); ++i) {
    if (fds[i + 2].revents != 0) OnReady(*of[i]);
  }
  if (fds[1].revents != 0) {
    parent_.Close();
    StopAll("the parent process is gone");
  }
  if (fds[0].revents != 0) OnSignals();
  OnDeaths();
  const absl::Time now = MonotonicNow();
  for (auto& [name, tenant] : tenants_) {
    if (!tenant.alive() || now < tenant.kill_at) continue;
    Log(StrCat("tenant ", name, " (pid ", tenant.process.pid, ") did not stop within ", absl::FormatDuration(kStopTimeout), ": killed"));
    tenant.kill_at = absl::InfiniteFuture();
    killed_ = true;
    kill(tenant.process.pid, SIGKILL);
  }
}

void Supervisor::OnSignals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (info.ssi_signo == SIGHUP) OnReload();
    if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) StopAll(StrCat("signal ", info.ssi_signo));
  }
}

void Supervisor::OnReload() {
  if (stopping_) return;
  absl::StatusOr<std::vector<TenantSpec>> specs = ReadFile();
  if (!specs.ok()) return Log(StrCat("the tenants stay as they are: ", std::string(specs.status().message())));
  std::map<std::string, TenantSpec> wanted;
  for (TenantSpec& spec : *specs) wanted[spec.name] = std::move(spec);
  for (auto& [name, tenant] : tenants_) {
    if (tenant.leaving || wanted.contains(name)) continue;
    Log(StrCat("tenant ", name, " is stopped: ", config_.tenants_file, " does not list it any more"));
    tenant.leaving = true;
    Stop(tenant);
  }
  for (auto& [name, spec] : wanted) {
    const auto [it, is_new] = tenants_.try_emplace(name);
    Tenant& tenant = it->second;
    if (!is_new && tenant.alive() && (tenant.leaving || !(tenant.spec == spec))) {
      Log(StrCat("tenant ", name, " has changed: it goes on as it is until it is started again, without its memory (kill -TERM ", tenant.process.pid, ")"));
    }
    if (is_new) Log(StrCat("tenant ", name, " is new"));
    tenant.leaving = false;
    tenant.spec = std::move(spec);
  }
}

void Supervisor::OnDeaths() {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    const auto it = std::find_if(tenants_.begin(), tenants_.end(), [pid](const auto& one) { return one.second.process.pid == pid; });
    if (it != tenants_.end()) OnEnd(it->second, status);
  }
  for (auto it = tenants_.begin(); it != tenants_.end();) {
    const bool gone = it->second.leaving && !it->second.alive();
    if (gone) rmdir(StrCat(host_.socket_dir, "/", it->first).c_str());  // if there is nothing of anybody's in it
    it = gone ? tenants_.erase(it) : std::next(it);
  }
}

void Supervisor::OnEnd(Tenant& tenant, int status) {
  const pid_t pid = tenant.process.pid;
  tenant.process = TenantProcess{};
  tenant.kill_at = absl::InfiniteFuture();
  if (stopping_ || tenant.leaving) {
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) killed_ = true;
    return;
  }
  tenant.delay = tenant.serves ? kFirstDelay : std::min(2 * tenant.delay, kLongestDelay);
  tenant.start_at = MonotonicNow() + tenant.delay;
  Log(StrCat("tenant ", tenant.spec.name, " (pid ", pid, ") ended with ", warden::DescribeExit(status), tenant.serves ? ": what it kept in memory is gone" : " before it served",
             "; started again in ", absl::FormatDuration(tenant.delay)));
  tenant.serves = false;
}

void Supervisor::OnReady(Tenant& tenant) {
  char line[4096];
  const ssize_t bytes = read(tenant.process.ready.get(), line, sizeof(line));
  tenant.process.ready.reset();
  if (bytes <= 0) return;  // it ended before
  tenant.serves = true;
  Log(StrCat("tenant ", tenant.spec.name, " (pid ", tenant.process.pid, ") serves"));
  TellReady();
}

// Once all that are listed have served.
void Supervisor::TellReady() {
  if (ready_fd_ < 0 || std::any_of(tenants_.begin(), tenants_.end(), [](const auto& one) { return !one.second.serves; })) return;
  std::string names;
  for (const auto& [name, tenant] : tenants_) StrAppend(&names, names.empty() ? "\"" : ", \"", name, "\"");
  const std::string line = StrCat("{\"socket_dir\": \"", host_.socket_dir, "\", \"tenants\": [", names, "], \"pid\": ", getpid(), "}\n");
  if (write(ready_fd_, line.data(), line.size()) < 0) Log("nobody reads --ready_fd");
  if (ready_fd_ > 2) close(ready_fd_);
  ready_fd_ = -1;
}

void Supervisor::StartDue() {
  if (stopping_) return;
  for (auto& [name, tenant] : tenants_) {
    if (tenant.alive() || tenant.leaving || MonotonicNow() < tenant.start_at) continue;
    absl::StatusOr<TenantProcess> started = StartTenant(host_, tenant.spec);
    if (started.ok()) {
      tenant.process = *std::move(started);
      continue;
    }
    tenant.delay = std::min(2 * tenant.delay, kLongestDelay);
    tenant.start_at = MonotonicNow() + tenant.delay;
    Log(StrCat("tenant ", name, " cannot be started: ", std::string(started.status().message()), "; again in ", absl::FormatDuration(tenant.delay)));
  }
}

void Supervisor::StopAll(const std::string& why) {
  if (stopping_) return;
  Log(StrCat(why, ": stopping all tenants"));
  stopping_ = true;
  for (auto& [name, tenant] : tenants_) Stop(tenant);
}

void Supervisor::Stop(Tenant& tenant) {
  if (!tenant.alive()) return;
  tenant.kill_at = MonotonicNow() + kStopTimeout;
  kill(tenant.process.pid, SIGTERM);
}

}  // namespace

int RunTenants(const NodeConfig& config, const std::vector<std::string>& arguments) {
  std::error_code error;
  TenantHost host{.program = std::filesystem::read_symlink("/proc/self/exe", error), .socket_dir = config.socket_dir, .cluster = config.cluster, .arguments = arguments};
  return Supervisor(config, std::move(host)).Run();
}

}  // namespace penstock::server
