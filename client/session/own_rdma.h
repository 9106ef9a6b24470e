// OwnRdma: this process's own use of RDMA, and the memory that is registered for it.
//
// UCX is loaded with the first read that can go by RDMA, or the first registration; most processes never have one. It lies in
// libpenstock_rdma.so, for it starts a thread, patches functions of the C library and sets signal handlers when it is loaded
// (those are put back at once).
//
// Threading:  any thread
// Ownership:  one a process, never destroyed: at the end of a process nobody knows what still uses it
// Errors:     UNIMPLEMENTED not installed; NOT_FOUND no device; FAILED_PRECONDITION another version of UCX, or a forked child;
//             RESOURCE_EXHAUSTED memory cannot be registered (RLIMIT_MEMLOCK)
// Limits:     never in a child that was forked after UCX was loaded: UCX cannot be used there. UCX may keep memory that was
//             registered pinned until it is unmapped, for the next read into it. Hold looks at each registration
#ifndef PENSTOCK_CLIENT_SESSION_OWN_RDMA_H_
#define PENSTOCK_CLIENT_SESSION_OWN_RDMA_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "transport/ucx/rdma_reader.h"

namespace penstock::client {

class OwnRdma {
 public:
  static OwnRdma& Get();

  // False once it is known that it cannot be used.
  bool MayBeUsed();
  // `version`: of UCX at the other end; empty: any.
  absl::StatusOr<RdmaReader*> Reader(const std::string& version);
  // What keeps `memory` registered: a registration of the caller's that covers it, else one that is made now.
  absl::StatusOr<std::shared_ptr<const void>> Hold(absl::Span<char> memory);
  // The same, to be found by Hold as long as it lives.
  absl::StatusOr<std::shared_ptr<const void>> Register(absl::Span<char> memory);

  void BeforeFork();

 private:
  class Registration;
  OwnRdma() = default;
  absl::StatusOr<RdmaReader*> OpenOnce();  // with mutex_
  bool InForkedChild() const;              // of one that has UCX; with mutex_

  std::mutex mutex_;
  bool opened_ = false;
  uint64_t opened_in_ = 0;  // ForkList::fork_count
  absl::StatusOr<RdmaReader*> reader_ = nullptr;
  struct Covering {
    absl::Span<char> memory;
    std::weak_ptr<const Registration> registration;
  };
  std::map<const Registration*, Covering> registered_;
};

}  // namespace penstock::client

// The one symbol of libpenstock_rdma.so; returns the absl::StatusCode.
extern "C" int penstock_open_rdma(penstock::RdmaReader** reader, std::string* why);

#endif  // PENSTOCK_CLIENT_SESSION_OWN_RDMA_H_
