// What `penstock doctor` looks at, one function per subject.
//
// Each check says what it found and, when that is not well, what to do about it. Checks change
// nothing and need no rights.
//
// Threading:  one thread.
// Ownership:  values.
// Errors:     a check that cannot look says so as kWarn; it never fails the call.
// Limits:     well under a second, but for a node that does not answer (--timeout).
#ifndef PENSTOCK_CLIENT_CLI_DOCTOR_CHECKS_H_
#define PENSTOCK_CLIENT_CLI_DOCTOR_CHECKS_H_

#include <string>
#include <vector>

#include "client/cli/invocation.h"
#include "store.pb.h"

namespace penstock::cli {

enum class Health { kOk, kWarn, kFail };

struct Finding {
  Health health = Health::kOk;
  std::string check;   // "memory"
  std::string found;   // "12.1GiB available of 23.5GiB (host)"
  std::string advice;  // what to do; empty when all is well
};

// The machine: kernel, memory and cgroup, huge pages, limits of the process, clock.
std::vector<Finding> CheckSystem();

// How others are reached: RDMA devices, MTU.
std::vector<Finding> CheckNetwork();

// The node's data port and locked memory, and each of its peers, which are asked.
std::vector<Finding> CheckLanes(Invocation& invocation, const v1::NodeInfoResponse& node);

// The store: socket directory, node, versions, memory of the node, lanes.
std::vector<Finding> CheckStore(Invocation& invocation);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_DOCTOR_CHECKS_H_
