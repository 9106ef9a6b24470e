// ForkableMemory: registered memory that a forked child may go on using.
//
// UCX takes what it registers out of the child (MADV_DONTFORK), whole pages of it, so that a child which only looks at an array
// of its parent's would fault. That was needed before Linux 5.12; since then fork copies pages that a device may write to.
//
// Threading:  any thread
// Ownership:  keeps addresses only
// Errors:     none; on a kernel before 5.12 it does nothing
// Limits:     what another thread's read registers while the process forks is missing in the child
// Source:     linux 5.12, mm: copy_present_page (page_needs_cow_for_dma); madvise(2)
#ifndef PENSTOCK_TRANSPORT_UCX_FORKABLE_MEMORY_H_
#define PENSTOCK_TRANSPORT_UCX_FORKABLE_MEMORY_H_

#include <cstdint>
#include <map>
#include <mutex>

#include "absl/types/span.h"

namespace penstock::ucx {

class ForkableMemory {
 public:
  ForkableMemory();
  // It is registered now, or by a transfer into it later: UCX does it anew whenever it has lost a registration.
  void Add(absl::Span<const char> memory);
  // Right before a fork.
  void LeaveToChild();

 private:
  const bool kernel_copies_;
  std::mutex mutex_;
  // First address and end of all that was ever added: UCX registers together what overlaps.
  std::map<uintptr_t, uintptr_t> ranges_;
};

}  // namespace penstock::ucx

#endif  // PENSTOCK_TRANSPORT_UCX_FORKABLE_MEMORY_H_
