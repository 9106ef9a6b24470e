#include "server/penstockd/socket_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::server {
namespace {

constexpr size_t kMaxSocketDirBytes = 107 - sizeof("/grpc.sock") + 1;

bool CanHold(const std::string& directory) {
  if (access(directory.c_str(), F_OK) == 0) return access(directory.c_str(), W_OK | X_OK) == 0;
  const std::string parent = std::filesystem::path(directory).parent_path();
  return access(parent.c_str(), W_OK | X_OK) == 0;
}

absl::Status MakeDirectory(const NodeConfig& config) {
  const std::string& path = config.socket_dir;
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) {
    return absl::PermissionDeniedError(
        StrCat("flag --socket_dir: cannot make the parent of '", path, "': ", error.message()));
  }
  if (mkdir(path.c_str(), 0700) == 0) {
    // Not by mkdir's mode, which the umask cuts.
    if (chmod(path.c_str(), config.socket_mode) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, StrCat("chmod ", path));
  }
  if (errno == EEXIST) return absl::OkStatus();
  return ErrnoStatus(errno, StrCat("flag --socket_dir: mkdir ", path));
}

// A directory that others may write to lets them put their own socket in the place of ours, unless
// it is sticky or --socket_mode asks for it.
absl::Status CheckDirectory(const NodeConfig& config) {
  struct stat info {};
  if (stat(config.socket_dir.c_str(), &info) != 0) {
    return ErrnoStatus(errno, StrCat("flag --socket_dir: stat ", config.socket_dir));
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(
        StrCat("flag --socket_dir: '", config.socket_dir, "' is no directory"));
  }
  if (info.st_uid != geteuid() && info.st_uid != 0) {
    return absl::PermissionDeniedError(StrCat("flag --socket_dir: '", config.socket_dir,
                                              "' belongs to user ", info.st_uid,
                                              ", must belong to user ", geteuid(), " or root"));
  }
  const uint32_t writable_by_others = info.st_mode & 0022 & ~config.socket_mode;
  if (writable_by_others != 0 && (info.st_mode & S_ISVTX) == 0) {
    return absl::PermissionDeniedError(StrCat("flag --socket_dir: other users may write to '",
                                              config.socket_dir,
                                              "'; chmod it to 0700, or say so with --socket_mode"));
  }
  return absl::OkStatus();
}

std::string WhoListens(const std::string& path) {
  const auto peer = Connect(path);
  if (!peer.ok()) return "";
  const auto credentials = GetPeerCredentials(peer->get());
  return credentials.ok() ? StrCat(" (process ", credentials->pid, ", user ", credentials->uid, ")")
                          : "";
}

}  // namespace

std::string DefaultSocketDir(const Environment& environment) {
  if (CanHold("/run/penstock")) return "/run/penstock";
  const char* runtime = environment("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') return StrCat(runtime, "/penstock");
  return StrCat("/tmp/penstock-", geteuid());
}

absl::StatusOr<std::string> AbsoluteSocketDir(const std::string& path) {
  std::error_code error;
  std::string absolute = std::filesystem::absolute(path, error).lexically_normal();
  if (error) {
    return absl::InvalidArgumentError(
        StrCat("flag --socket_dir: '", path, "' is no path: ", error.message()));
  }
  while (absolute.size() > 1 && absolute.back() == '/') absolute.pop_back();
  if (absolute.size() > kMaxSocketDirBytes) {
    return absl::InvalidArgumentError(
        StrCat("flag --socket_dir: '", absolute, "' has ", absolute.size(), " bytes; allowed are ",
               kMaxSocketDirBytes, ", since the path of a socket in it has at most 107"));
  }
  return absolute;
}

absl::StatusOr<UniqueFd> ListenOnFdSocket(const NodeConfig& config) {
  if (absl::Status made = MakeDirectory(config); !made.ok()) return made;
  if (absl::Status checked = CheckDirectory(config); !checked.ok()) return checked;
  const std::string path = config.FdSocketPath();
  auto listener = Listen(path, config.SocketFileMode());
  if (absl::IsAlreadyExists(listener.status())) {
    return absl::AlreadyExistsError(StrCat("another node", WhoListens(path), " serves ",
                                           config.socket_dir,
                                           ": stop it, or choose another --socket_dir"));
  }
  return listener;
}

void RemoveSockets(const NodeConfig& config) {
  unlink(config.FdSocketPath().c_str());
  unlink(config.GrpcSocketPath().c_str());
}

}  // namespace penstock::server
