// LoadNode: dlopens libpenstock_node.so and checks that it is of our kind.
//
// Called in forked children only: the node's, which then runs it, and one that only tells whether the
// file on disk could be the next node (library_check.h). The warden itself never loads it.
//
// Threading:  one thread
// Ownership:  the library stays loaded; nobody unloads it
// Errors:     FAILED_PRECONDITION: not there, no node library, or of another interface or layout of memory
// Limits:     runs the library's initializers (tens of milliseconds)
#ifndef PENSTOCK_SERVER_WARDEN_LOAD_NODE_H_
#define PENSTOCK_SERVER_WARDEN_LOAD_NODE_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/warden/warden_client.h"

namespace penstock::warden {

struct LoadedNode {
  int (*main)(NodeContext*) = nullptr;
  std::string version;  // of the library
};

absl::StatusOr<LoadedNode> LoadNode(const std::string& library);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_LOAD_NODE_H_
