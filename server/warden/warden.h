// RunWarden: the small process that holds the memory of a node and forks the node again when it
// dies.
//
// It has one thread and knows neither gRPC nor tensors, so that there is little in it that can
// fail: the memory lives as long as it does. It waits on the node's requests, its death, populating
// children and termination signals, and does nothing else.
//
//   node dies (a signal, or an exit code other than 0)   forked again, same memory and sessions
//   node asks for it (kRestartNode)                      the next one is forked when it has ended, if
//                                                        the library on disk is fit to be it
//   node exits with 0                                    the warden ends with 0
//   first node exits by itself before it ever served     the warden ends with its exit code: a
//                                                        port that is taken does not get free by
//                                                        trying
//   SIGTERM, SIGINT, SIGHUP, or the parent is gone       SIGTERM to the node, SIGKILL after
//                                                        stop_timeout or on a second SIGINT
//   the warden dies                                      the kernel kills the node
//
// Threading:  call it from a process with one thread; it returns when all is over
// Ownership:  the descriptors in the options stay the caller's
// Errors:     exit codes: 0 stopped as asked, 1 not, else the first node's
// Limits:     one node process at a time
#ifndef PENSTOCK_SERVER_WARDEN_WARDEN_H_
#define PENSTOCK_SERVER_WARDEN_WARDEN_H_

#include <string>

#include "absl/time/time.h"
#include "transport/segment/memfd.h"

namespace penstock::server {
struct NodeConfig;
}

namespace penstock::warden {

struct WardenOptions {
  const server::NodeConfig* config = nullptr;  // for the node; not read here
  std::string node_library;
  PageKind huge_pages = PageKind::kHugetlb;  // what a request for huge pages gets, if there is
  int fd_listener = -1;                      // handed to every node
  int ready_fd = -1;                         // gets the first line that a node says, then is closed
  bool exit_with_parent = false;
  absl::Duration stop_timeout = absl::Seconds(10);
};

int RunWarden(const WardenOptions& options);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_WARDEN_H_
