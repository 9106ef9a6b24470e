#include "client/cli/read_input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "client/cli/returning.h"
#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock::cli {

InputFile::InputFile(UniqueFd owned, int fd, std::string path)
    : owned_(std::move(owned)), fd_(fd), path_(std::move(path)) {}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  if (path == "-") return InputFile(UniqueFd(), STDIN_FILENO, "standard input");
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoStatus(errno, StrCat("open '", path, "'"));
  const int number = fd.get();
  return InputFile(std::move(fd), number, path);
}

absl::StatusOr<size_t> InputFile::Read(void* buffer, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = read(fd_, static_cast<std::byte*>(buffer) + done, size - done);
    if (got == 0) break;
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (errno != EINTR) {
      return ErrnoStatus(errno, StrCat("read '", path_, "'"));
    }
  }
  return done;
}

absl::StatusOr<InputFile::Contents> InputFile::ReadAll() {
  size_t capacity = size_t{1} << 20;
  Contents contents{std::make_unique_for_overwrite<std::byte[]>(capacity), 0};
  while (true) {
    CLI_ASSIGN_OR_RETURN(const size_t got,
                         Read(contents.bytes.get() + contents.size, capacity - contents.size));
    contents.size += got;
    if (contents.size < capacity) return contents;
    auto larger = std::make_unique_for_overwrite<std::byte[]>(2 * capacity);
    std::memcpy(larger.get(), contents.bytes.get(), contents.size);
    contents.bytes = std::move(larger);
    capacity *= 2;
  }
}

bool InputFile::is_device() const {
  struct stat status {};
  return fstat(fd_, &status) == 0 && S_ISCHR(status.st_mode);
}

}  // namespace penstock::cli
