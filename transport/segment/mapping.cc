#include "transport/segment/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "transport/sys_error.h"

#ifndef MADV_POPULATE_READ  // Linux 5.14; older C library headers lack the names
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace penstock {
namespace {

uint64_t PageBytes() {
  static const uint64_t bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

// A free, 2 MiB aligned address for `size` bytes; null if the address space has none. The range is
// given back before it is used: MAP_FIXED_NOREPLACE tells if another thread was faster.
void* FindAlignedAddress(uint64_t size) {
  const uint64_t span = size + kHugePageBytes;
  void* reserved =
      mmap(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  munmap(reserved, span);
  return reinterpret_cast<void*>(RoundUp(reinterpret_cast<uint64_t>(reserved), kHugePageBytes));
}

void* MapAligned(int fd, uint64_t size, int protection, int flags) {
  constexpr int kTries = 8;
  for (int i = 0; i < kTries; ++i) {
    void* wanted = FindAlignedAddress(size);
    if (wanted == nullptr) break;
    void* address = mmap(wanted, size, protection, flags | MAP_FIXED_NOREPLACE, fd, 0);
    if (address != MAP_FAILED || errno != EEXIST) return address;
  }
  return mmap(nullptr, size, protection, flags, fd, 0);  // correct, only without huge pages
}

}  // namespace

absl::StatusOr<Mapping> Mapping::Map(int fd, uint64_t size, int protection, int flags,
                                     PageKind kind) {
  if (size == 0) return absl::InvalidArgumentError("mmap: size is 0");
  void* address = size >= kHugePageBytes ? MapAligned(fd, size, protection, flags)
                                         : mmap(nullptr, size, protection, flags, fd, 0);
  if (address == MAP_FAILED) {
    return SysError(errno, absl::StrCat("mmap(descriptor ", fd, ", ", size, " bytes, ",
                                        flags & MAP_PRIVATE       ? "copy on write"
                                        : protection & PROT_WRITE ? "writable"
                                                                  : "read-only",
                                        ")"));
  }
  // Advice only: a kernel without THP answers EINVAL and maps small pages.
  if (kind == PageKind::kTransparentHuge) madvise(address, size, MADV_HUGEPAGE);
  return Mapping(static_cast<char*>(address), size);
}

absl::StatusOr<Mapping> Mapping::MapWritable(int fd, uint64_t size, PageKind kind) {
  return Map(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED, kind);
}

absl::StatusOr<Mapping> Mapping::MapReadOnly(int fd, uint64_t size, PageKind kind) {
  return Map(fd, size, PROT_READ, MAP_SHARED, kind);
}

absl::StatusOr<Mapping> Mapping::MapAnonymous(uint64_t size) {
  return Map(-1, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, PageKind::kSmall);
}

absl::StatusOr<Mapping> Mapping::MapPrivate(int fd, uint64_t size, PageKind kind) {
  return Map(fd, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, kind);
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    Unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

void Mapping::Unmap() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

char* Mapping::Release() {
  size_ = 0;
  return std::exchange(data_, nullptr);
}

absl::Status Mapping::CheckRange(const char* operation, uint64_t offset, uint64_t length) const {
  if (offset <= size_ && length <= size_ - offset) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(operation, ": range ", offset, "+", length,
                                                 " lies outside the mapping of ", size_, " bytes"));
}

absl::Status Mapping::Populate(bool write, uint64_t offset, uint64_t length) const {
  if (absl::Status range = CheckRange("populate", offset, length); !range.ok()) return range;
  if (length == 0) return absl::OkStatus();
  const uint64_t first = offset / PageBytes() * PageBytes();
  const uint64_t bytes = offset + length - first;
  int rc;
  do {
    rc = madvise(data_ + first, bytes, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
  } while (rc != 0 && (errno == EINTR || errno == EAGAIN));
  if (rc == 0) return absl::OkStatus();
  const std::string what = absl::StrCat("populate ", bytes, " bytes at ", first,
                                        write ? " for writing" : " for reading");
  switch (errno) {
    case EFAULT:  // where a plain access would be a SIGBUS
      return absl::DataLossError(absl::StrCat(
          what, ": a page cannot be provided (file shorter than the mapping, or no memory left)"));
    case EHWPOISON:
      return absl::DataLossError(absl::StrCat(what, ": a page has a hardware memory error"));
    case EINVAL:
      return absl::UnimplementedError(absl::StrCat(what, ": needs Linux 5.14 and matching access"));
    default:
      return SysError(errno, what);
  }
}

absl::Status Mapping::DontFork() const {
  if (madvise(data_, size_, MADV_DONTFORK) == 0) return absl::OkStatus();
  return SysError(errno, absl::StrCat("madvise(MADV_DONTFORK, ", size_, " bytes)"));
}

absl::Status Mapping::DropPrivatePages(uint64_t offset, uint64_t length) const {
  if (absl::Status range = CheckRange("drop private pages", offset, length); !range.ok()) {
    return range;
  }
  const uint64_t begin = RoundUp(offset, PageBytes());
  const uint64_t end = (offset + length) / PageBytes() * PageBytes();
  if (begin >= end || madvise(data_ + begin, end - begin, MADV_DONTNEED) == 0) {
    return absl::OkStatus();
  }
  return SysError(errno, absl::StrCat("madvise(MADV_DONTNEED, ", begin, "+", end - begin, ")"));
}

absl::Status Mapping::Protect(bool writable, uint64_t offset, uint64_t length) const {
  if (absl::Status range = CheckRange("protect", offset, length); !range.ok()) return range;
  const uint64_t end = offset + length;
  if (offset % PageBytes() != 0 || (end % PageBytes() != 0 && end != size_)) {
    return absl::InvalidArgumentError(absl::StrCat("protect: range ", offset, "+", length,
                                                   " is not on page boundaries of ", PageBytes()));
  }
  if (length == 0 ||
      mprotect(data_ + offset, length, writable ? PROT_READ | PROT_WRITE : PROT_READ) == 0) {
    return absl::OkStatus();
  }
  return SysError(errno, absl::StrCat("mprotect(", offset, "+", length, ", ",
                                      writable ? "writable" : "read-only", ")"));
}

}  // namespace penstock
