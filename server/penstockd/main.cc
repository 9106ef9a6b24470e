// penstockd: reads the configuration, takes the socket directory, and becomes the warden of a node, or the supervisor of several.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "server/penstockd/config.h"
#include "server/penstockd/socket_dir.h"
#include "server/penstockd/spill_lock.h"
#include "server/penstockd/tenant_supervisor.h"
#include "server/warden/warden.h"

namespace penstock::server {
namespace {

constexpr int kExitUsage = 2;

int Fail(int code, const absl::Status& why) {
  std::fprintf(stderr, "penstockd: %s\n", std::string(why.message()).c_str());
  return code;
}

// Segments and sessions cost descriptors; the usual soft limit of 1024 is for select().
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

PageKind WantedHugePages(HugePages wanted) {
  switch (wanted) {
    case HugePages::kAuto:
    case HugePages::kHugetlb:
      return PageKind::kHugetlb;
    case HugePages::kThp:
      return PageKind::kTransparentHuge;
    case HugePages::kOff:
      return PageKind::kSmall;
  }
  return PageKind::kSmall;
}

int Serve(const NodeConfig& config, const std::vector<std::string>& arguments) {
  if (config.ready_fd >= 0 && fcntl(config.ready_fd, F_GETFD) < 0) {
    return Fail(kExitUsage, absl::InvalidArgumentError("flag --ready_fd cannot be '" +
                                                       std::to_string(config.ready_fd) +
                                                       "'; allowed: an open descriptor, or -1"));
  }
  signal(SIGPIPE, SIG_IGN);
  RaiseDescriptorLimit();
  if (!config.tenants_file.empty()) return RunTenants(config, arguments);
  const auto listener = ListenOnFdSocket(config);
  if (!listener.ok()) {
    return Fail(absl::IsInvalidArgument(listener.status()) ? kExitUsage : 1, listener.status());
  }
  UniqueFd spill_lock;
  if (!config.spill_dir.empty()) {
    auto locked = LockSpillDir(config.spill_dir);
    if (!locked.ok()) return Fail(1, locked.status());
    spill_lock = *std::move(locked);
  }
  warden::WardenOptions options;
  options.config = &config;
  options.node_library = config.node_library;
  options.huge_pages = WantedHugePages(config.huge_pages);
  options.fd_listener = listener->get();
  options.ready_fd = config.ready_fd;
  options.exit_with_parent = config.exit_with_parent;
  const int code = warden::RunWarden(options);
  RemoveSockets(config);
  return code;
}

int Main(int argc, char** argv) {
  const auto loaded = LoadConfig(argc, argv);
  if (!loaded.ok()) return Fail(kExitUsage, loaded.status());
  if (loaded->action == ConfigAction::kServe) return Serve(loaded->config, {argv + std::min(argc, 1), argv + argc});
  std::fputs(loaded->text.c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace penstock::server

int main(int argc, char** argv) { return penstock::server::Main(argc, argv); }
