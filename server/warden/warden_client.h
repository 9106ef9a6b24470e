// What the node process asks of its warden, and what it inherits from it.
//
// The warden is the small process that holds the memory: it makes every segment and maps it before it is sealed, keeps
// duplicates of the sessions' descriptors, and forks the node without exec, so that a new node has all writable
// mappings at once and no client notices that the old one died (DESIGN.md section 3).
//
// Threading:  WardenClient: any thread; requests of several threads are in flight together.
// Ownership:  segments belong to the warden until DropSegment; the node unmaps its own mappings itself.
// Errors:     ResourceExhausted (memory could not be populated or mapped), Unavailable (the warden is gone: the node ends).
// Limits:     32 descriptors and 512 bytes of blob a session message; one node process at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/layout/fd_messages.h"
#include "transport/unique_fd.h"

namespace penstock::server {
struct NodeConfig;  // server/penstockd/config.h
}

namespace penstock::warden {

struct SegmentRequest {
  layout::SegmentKind kind;
  uint64_t bytes = 0;       // rounded up to pages (2 MiB when huge)
  bool huge_pages = false;  // want what --huge_pages allows
  bool populate = false;    // in a sacrificial child, before the reply
};

// A segment as the node sees it. Made by Create: `address` is the node's own writable mapping, made before the seal.
// Inherited: `address` is the warden's mapping, which the fork handed down.
struct Segment {
  uint32_t id = 0;
  layout::SegmentKind kind;
  uint64_t bytes = 0;
  void* address = nullptr;
  UniqueFd fd;
  uint32_t page_kind = 0;   // 0 = 4 KiB, 1 = transparent huge, 2 = hugetlb
  bool sealed = false;      // FUTURE_WRITE
};

// The session's blob is the node's business (session id, token, peer, counters); fds in a fixed order of its own.
struct InheritedSession {
  uint64_t id = 0;
  std::string blob;
  std::vector<UniqueFd> fds;
};

class WardenClient {
 public:
  virtual ~WardenClient() = default;

  // Makes a segment: memfd, size, seal GROW|SHRINK, mapped by warden and node. Kinds that only the node writes (catalog,
  // chunks, index, arena) come back sealed with FUTURE_WRITE, which was done before they were populated; the others not.
  virtual absl::StatusOr<Segment> CreateSegment(const SegmentRequest& request) = 0;
  // Checks that the caller has added F_SEAL_FUTURE_WRITE; FAILED_PRECONDITION if not. An inheriting node learns it from
  // the kernel, so a node that dies before this call loses nothing.
  virtual absl::Status MarkSealed(uint32_t segment) = 0;
  // The warden unmaps and closes it. The caller unmaps its own mapping (munmap of address, bytes).
  virtual absl::Status DropSegment(uint32_t segment) = 0;

  // Keeps (replaces) a session: blob and duplicates of the descriptors.
  virtual absl::Status KeepSession(uint64_t session, const std::string& blob, absl::Span<const int> fds) = 0;
  // Appends one descriptor to a kept session (a further pin chunk).
  virtual absl::Status AddSessionFd(uint64_t session, int fd) = 0;
  virtual absl::Status DropSession(uint64_t session) = 0;

  // Asks for another node process in this one's place. OK: end now, with 0; the next one runs the library that is on disk.
  // FAILED_PRECONDITION, which says why: that library could not take over; go on.
  virtual absl::Status RestartNode() = 0;
};

// What a node process is born with. Lives until the process ends.
struct NodeContext {
  const server::NodeConfig* config = nullptr;
  uint64_t generation = 1;                  // 1 for the first node, +1 with each restart
  int fd_listener = -1;                     // the fd.sock listener, made by the warden
  int bell_fd = -1;                         // an eventfd that all node processes share with writers of channels
  int ready_fd = -1;                        // write one line of JSON and close it when serving; -1 = told already
  uint32_t warden_pid = 0;
  uint64_t started_ns = 0;                  // of the warden, CLOCK_REALTIME
  void* scratch = nullptr;                  // 4096 bytes that survive restarts (zeroed by the warden at first), node only
  std::vector<Segment> segments;            // inherited
  std::vector<InheritedSession> sessions;   // inherited
  std::unique_ptr<WardenClient> warden;
};

}  // namespace penstock::warden

// Entry of libpenstock_node.so, called in the forked child. Returns the process's exit code: 0 = stopped gracefully.
extern "C" int penstock_node_main(penstock::warden::NodeContext* context);
