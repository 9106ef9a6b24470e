#include "client/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "client/files/file_identity.h"
#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

absl::StatusOr<absl::Span<const std::byte>> Map(int fd, const struct stat& info, const std::string& path) {
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(StrCat("open ", path, ": not a regular file"));
  }
  if (info.st_size == 0) return absl::Span<const std::byte>();
  const auto size = static_cast<size_t>(info.st_size);
  void* address = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) return ErrnoStatus(errno, StrCat("map ", path));
  return absl::Span<const std::byte>(static_cast<const std::byte*>(address), size);
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: a FIFO must be refused, not waited for.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, StrCat("open ", path));
  absl::StatusOr<MappedFile> file = OfDescriptor(fd, path);
  close(fd);
  return file;
}

absl::StatusOr<MappedFile> MappedFile::OfDescriptor(int fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoStatus(errno, StrCat("stat ", path));
  const absl::StatusOr<absl::Span<const std::byte>> bytes = Map(fd, info, path);
  if (!bytes.ok()) return bytes.status();
  MappedFile file;
  file.bytes_ = *bytes;
  absl::StatusOr<std::string> identity = FileIdentity(path, info);
  if (!identity.ok()) return identity.status();
  file.identity_ = *std::move(identity);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), identity_(std::move(other.identity_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(identity_, other.identity_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace penstock
