#include "server/penstockd/tenant_process.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "server/penstockd/flag_table.h"

namespace penstock::server {
namespace {

constexpr mode_t kOwnerOnly = 0700, kWithGroup = 0770;

struct Identity {
  uid_t uid;
  gid_t gid;
};

absl::StatusOr<Identity> IdentityOf(const TenantSpec& tenant) {
  Identity identity{geteuid(), getegid()};
  if (!tenant.user.empty()) {
    const passwd* user = getpwnam(tenant.user.c_str());
    if (user == nullptr) return absl::InvalidArgumentError(StrCat("tenant '", tenant.name, "': user=", tenant.user, ": there is no such user on this host"));
    identity = {user->pw_uid, user->pw_gid};
  }
  if (!tenant.group.empty()) {
    const group* group = getgrnam(tenant.group.c_str());
    if (group == nullptr) return absl::InvalidArgumentError(StrCat("tenant '", tenant.name, "': group=", tenant.group, ": there is no such group on this host"));
    identity.gid = group->gr_gid;
  }
  if (geteuid() != 0 && (identity.uid != geteuid() || identity.gid != getegid())) {
    return absl::InvalidArgumentError(StrCat("tenant '", tenant.name, "': ", tenant.user.empty() ? "group=" : "user=", tenant.user.empty() ? tenant.group : tenant.user,
                                             ": only root can start a node as somebody else; take the line out, or run penstockd as root"));
  }
  return identity;
}

mode_t ModeOf(const TenantSpec& tenant) {
  NodeConfig config;
  config.socket_mode = tenant.group.empty() ? kOwnerOnly : kWithGroup;
  for (const std::string& flag : tenant.flags) {
    constexpr std::string_view kMode = "--socket_mode=";
    if (flag.starts_with(kMode)) FindFlag("socket_mode")->set(std::string_view(flag).substr(kMode.size()), &config).IgnoreError();
  }
  return config.socket_mode;
}

absl::Status MakeFolder(const std::string& path, const Identity& identity, mode_t mode) {
  if (mkdir(path.c_str(), kOwnerOnly) != 0 && errno != EEXIST) return ErrnoStatus(errno, StrCat("mkdir ", path));
  const UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder) return ErrnoStatus(errno, StrCat("open ", path));
  if (geteuid() == 0 && fchown(folder.get(), identity.uid, identity.gid) != 0) return ErrnoStatus(errno, StrCat("chown ", path));
  if (fchmod(folder.get(), mode) != 0) return ErrnoStatus(errno, StrCat("chmod ", path));
  return absl::OkStatus();
}

std::vector<std::string> Arguments(const TenantHost& host, const TenantSpec& tenant, int ready_fd) {
  std::vector<std::string> words = {"penstockd", "--grpc_port=0"};  // unless somebody says otherwise: of two, one 7411 is taken
  words.insert(words.end(), host.arguments.begin(), host.arguments.end());
  if (!tenant.has_mode) words.push_back(StrCat("--socket_mode=", tenant.group.empty() ? "0700" : "0770"));
  words.insert(words.end(), tenant.flags.begin(), tenant.flags.end());
  for (std::string word : {StrCat("--tenants="), StrCat("--tenant=", tenant.name), StrCat("--socket_dir=", host.socket_dir, "/", tenant.name),
                           StrCat("--cluster=", host.cluster, ".", tenant.name), std::string("--exit_with_parent=true"), StrCat("--ready_fd=", ready_fd)}) {
    words.push_back(std::move(word));
  }
  return words;
}

[[noreturn]] void RunChild(const TenantHost& host, const Identity& identity, const std::vector<std::string>& words, int ready_fd) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  fcntl(ready_fd, F_SETFD, 0);
  if (geteuid() == 0 && (setgroups(1, &identity.gid) != 0 || setgid(identity.gid) != 0 || setuid(identity.uid) != 0)) {
    perror("penstockd: setuid");
    _exit(1);
  }
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execv(host.program.c_str(), arguments.data());
  perror(host.program.c_str());
  _exit(1);
}

}  // namespace

absl::Status CheckIdentity(const TenantSpec& tenant) { return IdentityOf(tenant).status(); }

absl::StatusOr<TenantProcess> StartTenant(const TenantHost& host, const TenantSpec& tenant) {
  const absl::StatusOr<Identity> identity = IdentityOf(tenant);
  if (!identity.ok()) return identity.status();
  if (absl::Status s = MakeFolder(StrCat(host.socket_dir, "/", tenant.name), *identity, ModeOf(tenant)); !s.ok()) return s;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe2");
  TenantProcess process;
  process.ready.reset(ends[0]);
  const UniqueFd told(ends[1]);
  const std::vector<std::string> words = Arguments(host, tenant, told.get());
  fflush(nullptr);
  process.pid = fork();
  if (process.pid < 0) return ErrnoStatus(errno, "fork");
  if (process.pid == 0) RunChild(host, *identity, words, told.get());
  return process;
}

}  // namespace penstock::server
