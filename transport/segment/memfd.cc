#include "transport/segment/memfd.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "transport/sys_error.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace penstock {
namespace {

constexpr int kSizeSeals = F_SEAL_GROW | F_SEAL_SHRINK;

uint64_t BasePageBytes() {
  static const uint64_t bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// The bracketed word of a sysfs choice: "always [advise] never" -> "advise"; empty if there is
// none.
std::string ChosenWord(const std::string& path) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const size_t open = text.find('['), close = text.find(']');
  if (open == std::string::npos || close == std::string::npos || close < open) return "";
  return text.substr(open + 1, close - open - 1);
}

absl::StatusOr<UniqueFd> CreateSized(const std::string& name, uint64_t size, unsigned extra_flags) {
  UniqueFd fd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | extra_flags));
  if (!fd) return SysError(errno, absl::StrCat("memfd_create(", name, ")"));
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return SysError(errno, absl::StrCat("ftruncate(memfd ", name, ", ", size, ")"));
  }
  if (fcntl(fd.get(), F_ADD_SEALS, kSizeSeals) != 0) {
    return SysError(errno, absl::StrCat("seal the size of memfd ", name));
  }
  return fd;
}

// A shared mapping of hugetlb reserves its pages for the file, and the reservation stays when the
// mapping goes: the only way to learn now, and not by a later SIGBUS, that the pool is too small.
absl::StatusOr<UniqueFd> CreateHugetlb(const std::string& name, uint64_t size) {
  if (size % kHugePageBytes != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("size ", size, " is not a multiple of ", kHugePageBytes));
  }
  auto fd = CreateSized(name, size, MFD_HUGETLB | MFD_HUGE_2MB);
  if (!fd.ok()) return fd;
  void* address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0);
  if (address == MAP_FAILED) {
    // Without numbers: who logs this says the same thing once.
    return SysError(errno, "too few pages of 2 MiB are reserved (vm.nr_hugepages)");
  }
  munmap(address, size);
  return fd;
}

}  // namespace

const char* PageKindName(PageKind kind) {
  switch (kind) {
    case PageKind::kSmall:
      return "small";
    case PageKind::kTransparentHuge:
      return "transparent-huge";
    case PageKind::kHugetlb:
      return "hugetlb";
  }
  return "unknown";
}

std::string WhyNoShmemHugePages(const std::string& sysfs_root) {
  const std::string base = sysfs_root + "/kernel/mm/transparent_hugepage/";
  std::string path = base + "hugepages-2048kB/shmem_enabled";  // Linux 6.14 and later: by size
  std::string chosen = ChosenWord(path);
  if (chosen.empty() || chosen == "inherit") {
    path = base + "shmem_enabled";
    chosen = ChosenWord(path);
  }
  if (chosen.empty()) return "this kernel has no transparent huge pages for shared memory";
  if (chosen == "never" || chosen == "deny") {
    return absl::StrCat(path, " is '", chosen, "' (as root: echo advise > ", path, ")");
  }
  return "";
}

absl::StatusOr<Memfd> CreateMemfd(const MemfdOptions& options) {
  const uint64_t page = BasePageBytes();
  if (options.size == 0 || options.size > (uint64_t{1} << 62)) {
    return absl::InvalidArgumentError(
        absl::StrCat("memfd ", options.name, ": size ", options.size, " is not in 1..2^62"));
  }
  if (options.name.size() > 200) {
    return absl::InvalidArgumentError(
        absl::StrCat("memfd name has ", options.name.size(), " bytes, at most 200 are allowed"));
  }
  const uint64_t size = (options.size + page - 1) / page * page;
  std::string reason;
  if (options.want == PageKind::kHugetlb) {
    auto fd = CreateHugetlb(options.name, size);
    if (fd.ok()) return Memfd(*std::move(fd), size, PageKind::kHugetlb, "");
    reason = absl::StrCat("no hugetlb: ", fd.status().message());
  }
  PageKind kind = PageKind::kSmall;
  if (options.want != PageKind::kSmall) {
    const std::string why = size < kHugePageBytes
                                ? absl::StrCat("size ", size, " is below one huge page")
                                : WhyNoShmemHugePages();
    if (why.empty()) {
      kind = PageKind::kTransparentHuge;
    } else {
      absl::StrAppend(&reason, reason.empty() ? "" : "; ", "no transparent huge pages: ", why);
    }
  }
  auto fd = CreateSized(options.name, size, 0);
  if (!fd.ok()) return fd.status();
  return Memfd(*std::move(fd), size, kind, std::move(reason));
}

absl::Status SealFutureWrite(int fd) {
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0) return absl::OkStatus();
  return SysError(errno, absl::StrCat("seal descriptor ", fd,
                                      " with F_SEAL_FUTURE_WRITE (needs Linux 5.1 and a descriptor "
                                      "opened for writing)"));
}

absl::StatusOr<int> GetSeals(int fd) {
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) return SysError(errno, absl::StrCat("F_GET_SEALS of descriptor ", fd));
  return seals;
}

bool IsFullySealed(int fd) {
  const auto seals = GetSeals(fd);
  return seals.ok() && (*seals & kSizeSeals) == kSizeSeals &&
         (*seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) != 0;
}

}  // namespace penstock
