// StartNode: forks the process that serves, without exec.
//
// Only a fork without exec inherits writable mappings of memory that is sealed against writing. The
// child loads libpenstock_node.so anew each time, so a node that is restarted runs the library that
// is there now.
//
// Threading:  only from a process with one thread: the child goes on as a full program
// Ownership:  NodeProcess owns the warden's ends; the child ends when its warden does (PDEATHSIG)
// Errors:     RESOURCE_EXHAUSTED (no process, no descriptors); what goes wrong in the child shows
// in
//             its exit code: kExitNoLibrary when the library cannot be used
// Limits:     a fork of 1-5 ms with GiBs mapped, then dlopen
#ifndef PENSTOCK_SERVER_WARDEN_NODE_PROCESS_H_
#define PENSTOCK_SERVER_WARDEN_NODE_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/warden/segment_table.h"
#include "server/warden/session_table.h"
#include "server/warden/warden_client.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

inline constexpr int kExitNoLibrary = 70;  // EX_SOFTWARE

struct NodeProcess {
  pid_t pid = -1;
  UniqueFd pidfd;   // readable when the process has ended
  UniqueFd socket;  // its requests
  UniqueFd ready;   // read end: what the node says when it serves; empty if it need not
};

struct NodeBirth {
  const server::NodeConfig* config = nullptr;
  std::string library;
  uint64_t generation = 1;
  uint64_t started_ns = 0;
  int fd_listener = -1;
  int bell_fd = -1;
  void* scratch = nullptr;
  SegmentTable* segments = nullptr;  // the child takes its copy of them
  SessionTable* sessions = nullptr;
};

// `announce`: the node gets a descriptor to tell that it serves. `forget_in_child` are descriptors
// that are the warden's alone.
struct StartOptions {
  bool announce = false;
  std::vector<int> forget_in_child;
};
absl::StatusOr<NodeProcess> StartNode(const NodeBirth& birth, const StartOptions& options);

// How it ended, in words: "exit code 3", "signal 9 (Killed)".
std::string DescribeExit(int wait_status);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_NODE_PROCESS_H_
