#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "client/cli/doctor_checks.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "transport/memory_limit.h"
#include "transport/segment/memfd.h"
#include "transport/unique_fd.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kComfortableMemory = uint64_t{256} << 20;
constexpr uint64_t kComfortableFiles = 4096;
constexpr uint64_t kComfortableMemlock = uint64_t{64} << 20;

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string LimitText(rlim_t limit, bool bytes) {
  if (limit == RLIM_INFINITY) return "unlimited";
  return bytes ? FormatSize(limit) : StrCat(limit);
}

Finding CheckKernel() {
  utsname name{};
  uname(&name);
  Finding finding{
      Health::kOk, "kernel",
      StrCat("Linux ", name.release, ", ", std::thread::hardware_concurrency(), " cores"), ""};
  UniqueFd fd(memfd_create("penstock-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  constexpr int kSeals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE;
  if (fd.get() < 0 || ftruncate(fd.get(), 4096) != 0 || fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    finding.health = Health::kFail;
    StrAppend(&finding.found, "; no sealed memory (", strerror(errno), ")");
    finding.advice =
        "Penstock needs memfd with F_SEAL_FUTURE_WRITE: Linux 5.1 or later, not filtered by "
        "seccomp";
  }
  return finding;
}

Finding CheckMemory() {
  Finding finding{Health::kOk, "memory", "", ""};
  const absl::StatusOr<MemoryLimit> limit = ReadMemoryLimit();
  if (!limit.ok()) {
    return {Health::kWarn, "memory", std::string(limit.status().message()), "is /proc mounted?"};
  }
  finding.found = StrCat(FormatSize(limit->available), " available; limit ",
                         FormatSize(limit->limit), " by ", limit->source);
  if (limit->available < kComfortableMemory) {
    finding.health = Health::kWarn;
    finding.advice = StrCat("a node has little room here: raise the limit of ", limit->source,
                            ", or start penstockd with a small --memory");
  }
  return finding;
}

Finding CheckOvercommit() {
  const std::string mode = FirstLine("/proc/sys/vm/overcommit_memory");
  Finding finding{Health::kOk, "overcommit", StrCat("vm.overcommit_memory=", mode), ""};
  if (mode == "2") {
    finding.health = Health::kWarn;
    finding.advice =
        "strict accounting counts shared mappings: sysctl vm.overcommit_memory=0, or keep "
        "vm.overcommit_ratio high enough for the store's memory";
  }
  return finding;
}

Finding CheckHugePages() {
  const std::string why_not = WhyNoShmemHugePages();
  const std::string reserved = FirstLine("/proc/sys/vm/nr_hugepages");
  Finding finding{Health::kOk, "huge pages", "", ""};
  if (why_not.empty()) {
    finding.found = "transparent huge pages for shared memory are on";
  } else {
    finding.found = StrCat("no transparent ones: ", why_not);
  }
  if (!reserved.empty() && reserved != "0") StrAppend(&finding.found, "; ", reserved, " reserved");
  if (!why_not.empty() && (reserved.empty() || reserved == "0")) {
    finding.health = Health::kWarn;
    finding.advice =
        "works, but the first pass over large tensors costs 2-4 times more: echo advise > "
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled, or reserve with vm.nr_hugepages";
  }
  return finding;
}

Finding CheckFiles() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Finding finding{Health::kOk, "open files",
                  StrCat("nofile ", LimitText(limit.rlim_cur, false), " (hard ",
                         LimitText(limit.rlim_max, false), ")"),
                  ""};
  if (limit.rlim_max < kComfortableFiles) {
    finding.health = Health::kWarn;
    finding.advice = StrCat("each session and segment takes descriptors: raise the hard limit to ",
                            kComfortableFiles, " (ulimit -Hn, LimitNOFILE=)");
  }
  return finding;
}

Finding CheckMemlock() {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  Finding finding{Health::kOk, "locked memory", StrCat("memlock ", LimitText(limit.rlim_cur, true)),
                  ""};
  const bool has_rdma = access("/dev/infiniband", F_OK) == 0;
  if (!has_rdma) {
    finding.found += "; no RDMA device, so nothing has to be locked";
  } else if (limit.rlim_cur < kComfortableMemlock) {
    finding.health = Health::kWarn;
    finding.advice =
        "RDMA registers the store's memory: set memlock to unlimited (ulimit -l, "
        "LimitMEMLOCK=infinity)";
  }
  return finding;
}

Finding CheckClock() {
  const std::string source =
      FirstLine("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  Finding finding{Health::kOk, "clock", StrCat("source ", source.empty() ? "not known" : source),
                  ""};
  if (source == "hpet" || source == "acpi_pm") {
    finding.health = Health::kWarn;
    finding.advice =
        "reading this clock is a system call: times of calls cost microseconds; prefer tsc";
  }
  if (absl::Now() < absl::FromUnixSeconds(1'700'000'000)) {
    finding.health = Health::kWarn;
    finding.found += "; the time of day lies years back";
    finding.advice = "set the clock: creation and expiry times of tensors come from it";
  }
  return finding;
}

}  // namespace

std::vector<Finding> CheckSystem() {
  return {CheckKernel(), CheckMemory(),  CheckOvercommit(), CheckHugePages(),
          CheckFiles(),  CheckMemlock(), CheckClock()};
}

}  // namespace penstock::cli
