// UniqueFd: a file descriptor with one owner; closed when the owner goes.
//
//   UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
//   if (!fd) return SysError(errno, "open");
//
// Threading:  one thread at a time, as an int
// Ownership:  owns the descriptor; release() gives it up
// Errors:     Dup() returns an empty UniqueFd with errno set
// Limits:     close() errors are ignored: nothing sensible can be done, and a retry is wrong on
// Linux
#ifndef PENSTOCK_TRANSPORT_UNIQUE_FD_H_
#define PENSTOCK_TRANSPORT_UNIQUE_FD_H_

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace penstock {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

  // Closes the descriptor held so far; keeps errno.
  void reset(int fd = -1) {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) {
      const int saved_errno = errno;
      close(old);
      errno = saved_errno;
    }
  }

  // A second descriptor of the same open file, close-on-exec.
  UniqueFd Dup() const { return UniqueFd(fcntl(fd_, F_DUPFD_CLOEXEC, 0)); }

 private:
  int fd_ = -1;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_UNIQUE_FD_H_
