#include "transport/ucx/forkable_memory.h"

#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace penstock::ucx {

namespace {

uintptr_t PageSize() { return static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)); }

bool KernelCopiesPinnedPages() {
  utsname name{};
  int major = 0, minor = 0;
  if (uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 5 || (major == 5 && minor >= 12);
}

// What was memory once may be unmapped by now (ENOMEM; the rest was done), or a device's registers (EINVAL; nothing after them was).
void LeaveRangeToChild(uintptr_t begin, uintptr_t end) {
  if (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DOFORK) == 0 || errno == ENOMEM) return;
  const uintptr_t page = PageSize(), middle = begin + (end - begin) / 2 / page * page;
  if (middle == begin) return;
  LeaveRangeToChild(begin, middle);
  LeaveRangeToChild(middle, end);
}

}  // namespace

ForkableMemory::ForkableMemory() : kernel_copies_(KernelCopiesPinnedPages()) {}

void ForkableMemory::Add(absl::Span<const char> memory) {
  if (!kernel_copies_ || memory.empty()) return;
  const uintptr_t page = PageSize();
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
    LeaveRangeToChild(begin, end);
  }
}

}  // namespace penstock::ucx
