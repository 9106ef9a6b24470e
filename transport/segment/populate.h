// PopulateChild: fills shared memory with pages from a sacrificial process.
//
// Going past a cgroup's limit is no error but a SIGKILL of somebody in the group. A child whose
// oom_score_adj is 1000 is that somebody: it dies, the node lives and answers RESOURCE_EXHAUSTED.
// Pages of a shared mapping belong to the file, so what the child touched stays.
//
//   auto child = PopulateChild::Start({.address = p, .length = n});
//   ... poll(child->pidfd()) ...
//   absl::Status done = child->Wait();
//
// Threading:  Start may be called with any number of threads: the child is a raw clone that makes
//             system calls only (no at-fork handlers, no allocation). The object one thread at a
//             time
// Ownership:  the object owns the child: destroying it kills and reaps it; the child also dies when
//             the thread that called Start ends. It has closed every descriptor: it keeps no
//             socket of ours alive
// Errors:     RESOURCE_EXHAUSTED (killed at the limit, or no memory), INVALID_ARGUMENT (not mapped,
//             not writable, private to the parent), UNIMPLEMENTED (before Linux 5.14)
// Limits:     the range must be a writable MAP_SHARED mapping without MADV_DONTFORK. Costs a fork
//             (1 ms with GiBs of shared memory mapped). waitpid(-1) elsewhere does not see the
//             child
#ifndef PENSTOCK_TRANSPORT_SEGMENT_POPULATE_H_
#define PENSTOCK_TRANSPORT_SEGMENT_POPULATE_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/unique_fd.h"

namespace penstock {

struct PopulateOptions {
  void* address = nullptr;  // page aligned
  uint64_t length = 0;
  uint64_t slice_bytes = uint64_t{32} << 20;  // one madvise each; the step of *progress
  int nice = 0;                               // added to the child's nice value
  // Bytes populated so far, written by the child after each slice. Must lie in a shared mapping.
  std::atomic<uint64_t>* progress = nullptr;
};

class PopulateChild {
 public:
  static absl::StatusOr<PopulateChild> Start(const PopulateOptions& options);

  PopulateChild(PopulateChild&& other) noexcept;
  PopulateChild& operator=(PopulateChild&& other) noexcept;
  ~PopulateChild();

  pid_t pid() const { return pid_; }
  // Readable (poll) when the child has ended and Wait() will not block.
  int pidfd() const { return pidfd_.get(); }

  // Waits for the end and tells how it went. Call once.
  absl::Status Wait();

 private:
  PopulateChild(pid_t pid, UniqueFd pidfd, uint64_t length)
      : pid_(pid), pidfd_(std::move(pidfd)), length_(length) {}
  void KillAndReap();

  pid_t pid_ = -1;
  UniqueFd pidfd_;
  uint64_t length_ = 0;
};

// Start and Wait in one.
absl::Status PopulateInChild(void* address, uint64_t length);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_SEGMENT_POPULATE_H_
