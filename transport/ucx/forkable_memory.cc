#include "transport/ucx/forkable_memory.h"

#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace penstock::ucx {

namespace {

bool KernelCopiesPinnedPages() {
  utsname name{};
  int major = 0, minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 5 || (major == 5 && minor >= 12);
}

}  // namespace

ForkableMemory::ForkableMemory() : kernel_copies_(KernelCopiesPinnedPages()) {}

void ForkableMemory::Add(absl::Span<const char> memory) {
  if (!kernel_copies_ || memory.empty()) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data()) / page * page;
  uintptr_t end = (reinterpret_cast<uintptr_t>(memory.data()) + memory.size() + page - 1) / page * page;
  std::lock_guard lock(mutex_);
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second >= begin) --it;
  while (it != ranges_.end() && it->first <= end) {
    begin = std::min(begin, it->first);
    end = std::max(end, it->second);
    it = ranges_.erase(it);
  }
  ranges_.emplace(begin, end);
}

void ForkableMemory::LeaveToChild() {
  std::lock_guard lock(mutex_);
  for (const auto& [begin, end] : ranges_) {
    (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DOFORK);  // parts may be unmapped by now
  }
}

}  // namespace penstock::ucx
