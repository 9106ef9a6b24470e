// Memfd: the anonymous file behind a segment, with its size sealed and the best pages there are.
//
// A segment is made in this order (DESIGN 3); anything else leaves a hole:
//   CreateMemfd (create, size, seal GROW|SHRINK) -> everyone who may write maps it writable
//   -> SealFutureWrite -> populate -> register with a NIC or hand out to readers
// Before SealFutureWrite any holder of the descriptor can punch holes under pages that are in use.
//
// Threading:  any thread; a Memfd itself one thread at a time
// Ownership:  Memfd owns its descriptor; mappings and duplicates outlive it
// Errors:     INVALID_ARGUMENT (size 0), RESOURCE_EXHAUSTED (descriptors, memory); a page kind that
//             is not available is no error: page_kind() and page_kind_reason() say what came
// Limits:     no page is populated here except the hugetlb reservation; 3-6 system calls
#ifndef PENSTOCK_TRANSPORT_SEGMENT_MEMFD_H_
#define PENSTOCK_TRANSPORT_SEGMENT_MEMFD_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/unique_fd.h"

namespace penstock {

enum class PageKind {
  kSmall,            // the system's base pages
  kTransparentHuge,  // shmem THP: needs shmem_enabled advise|within_size|always and an aligned
                     // mapping
  kHugetlb,  // reserved 2 MiB pages (vm.nr_hugepages); reserved here, so populate cannot fail
};

const char* PageKindName(PageKind kind);

inline constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

struct MemfdOptions {
  std::string name;  // shows in /proc/PID/maps; at most 200 bytes
  uint64_t size = 0;
  PageKind want = PageKind::kTransparentHuge;
};

class Memfd {
 public:
  Memfd(UniqueFd fd, uint64_t size, PageKind kind, std::string reason)
      : fd_(std::move(fd)), size_(size), page_kind_(kind), reason_(std::move(reason)) {}

  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }
  PageKind page_kind() const { return page_kind_; }
  // Why page_kind() is not what was wanted; empty when it is.
  const std::string& page_kind_reason() const { return reason_; }
  UniqueFd TakeFd() && { return std::move(fd_); }

 private:
  UniqueFd fd_;
  uint64_t size_;
  PageKind page_kind_;
  std::string reason_;
};

// Falls back hugetlb -> transparent huge -> small. `options.size` is rounded up to whole base
// pages.
absl::StatusOr<Memfd> CreateMemfd(const MemfdOptions& options);

// Whether shmem can have transparent huge pages when a mapping asks for them with MADV_HUGEPAGE.
// Empty when it can, else the reason in words. `sysfs_root` is "/sys" outside tests.
std::string WhyNoShmemHugePages(const std::string& sysfs_root = "/sys");

// From here on no new writable mapping, no write, no hole; writable mappings that exist stay.
absl::Status SealFutureWrite(int fd);

absl::StatusOr<int> GetSeals(int fd);

// True if size and contents are sealed against everyone who has no writable mapping yet. A receiver
// checks this before it trusts a descriptor: without it, a peer could truncate it (SIGBUS).
bool IsFullySealed(int fd);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_SEGMENT_MEMFD_H_
