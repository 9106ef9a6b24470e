// RdmaReader: one process's use of RDMA to read other processes' memory, and to write drafts there.
//
//   auto reader = OpenRdmaReader();                      // NOT_FOUND: no RDMA device here
//   auto lane = (*reader)->NewLane(worker_address, blocks);
//
// Abstract, so that a library which is loaded at need can bring it (client/session/rdma_library.cc); this header needs no UCX.
//
// Threading:  any thread
// Ownership:  lanes and registrations keep what they need, and may outlive it
// Errors:     OpenRdmaReader: NOT_FOUND no device. Register: RESOURCE_EXHAUSTED (RLIMIT_MEMLOCK), INTERNAL what UCX says
// Limits:     UCX of one and the same version at both ends. Not to be touched in a forked child
#ifndef PENSTOCK_TRANSPORT_UCX_RDMA_READER_H_
#define PENSTOCK_TRANSPORT_UCX_RDMA_READER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "transport/lane/granted_blocks.h"
#include "transport/lane/lane.h"

namespace penstock {

class RdmaReader {
 public:
  virtual ~RdmaReader() = default;

  virtual std::string version() const = 0;  // of UCX
  // `worker`: RdmaTarget::address of the peer.
  virtual absl::StatusOr<std::shared_ptr<Lane>> NewLane(std::string worker, std::shared_ptr<GrantedBlocks> blocks) = 0;
  // Memory that transfers go into. Must stay mapped, and be writable, while the registration lives. A forked child has a copy of
  // it as of any other memory (before Linux 5.12: faults when it touches it, ucx/forkable_memory.h).
  virtual absl::StatusOr<std::shared_ptr<const void>> Register(absl::Span<char> memory) = 0;
  // Right before a fork.
  virtual void LeaveMemoryToChild() = 0;
};

absl::StatusOr<std::unique_ptr<RdmaReader>> OpenRdmaReader();

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_UCX_RDMA_READER_H_
