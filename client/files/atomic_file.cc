#include "client/files/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <random>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

// Where a file named `path` really lies: through a symbolic link, if it is one that leads
// somewhere.
absl::StatusOr<std::string> ResolveTarget(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return path;
    return ErrnoStatus(errno, StrCat("create ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        StrCat("create ", path, ": exists and is not a regular file"));
  }
  char* resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return ErrnoStatus(errno, StrCat("create ", path));
  std::string target = resolved;
  std::free(resolved);
  return target;
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status SyncDirectory(const std::string& directory) {
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, StrCat("open ", directory));
  const int error = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  // Some file systems cannot sync a directory and say EINVAL.
  if (error != 0 && error != EINVAL) return ErrnoStatus(error, StrCat("sync ", directory));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::string& path) {
  absl::StatusOr<std::string> target = ResolveTarget(path);
  if (!target.ok()) return target.status();
  std::random_device random;
  for (;;) {
    std::string temporary_path = StrCat(*target, ".tmp-", random());
    const int fd =
        open(temporary_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd >= 0) return AtomicFile(*std::move(target), std::move(temporary_path), fd);
    if (errno != EEXIST) return ErrnoStatus(errno, StrCat("create ", temporary_path));
  }
}

AtomicFile::AtomicFile(std::string path, std::string temporary_path, int fd)
    : path_(std::move(path)), temporary_path_(std::move(temporary_path)), fd_(fd) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_path_(std::move(other.temporary_path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_bytes_(other.size_bytes_) {}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_path_.c_str());
}

absl::Status AtomicFile::Write(absl::Span<const std::byte> bytes) {
  constexpr size_t kMaxChunk = size_t{1} << 30;  // one write() moves less than 2 GiB
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), std::min(bytes.size(), kMaxChunk));
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, StrCat("write ", temporary_path_, " at byte ", size_bytes_));
    }
    size_bytes_ += static_cast<uint64_t>(written);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::Write(std::string_view text) {
  return Write(
      absl::Span<const std::byte>(reinterpret_cast<const std::byte*>(text.data()), text.size()));
}

absl::Status AtomicFile::Commit() {
  if (fsync(fd_) != 0) return ErrnoStatus(errno, StrCat("sync ", temporary_path_));
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return ErrnoStatus(errno, StrCat("rename ", temporary_path_, " to ", path_));
  }
  close(std::exchange(fd_, -1));
  return SyncDirectory(DirectoryOf(path_));
}

}  // namespace penstock
