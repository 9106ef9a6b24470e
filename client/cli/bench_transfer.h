// `penstock bench --from A --to B`: how fast tensors get from one node to another.
//
// One of the two is the node that the command is connected to; it makes the transfers itself, as it would for a get or a put.
//
// Threading:  one thread.
// Ownership:  nothing is kept; what the nodes need for it they give up at the end.
// Errors:     INVALID_ARGUMENT names the flag, and says which nodes there are; else those of the nodes
// Limits:     --size of 4 GiB; one transfer at a time
#ifndef PENSTOCK_CLIENT_CLI_BENCH_TRANSFER_H_
#define PENSTOCK_CLIENT_CLI_BENCH_TRANSFER_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cli/invocation.h"

namespace penstock::cli {

// `seconds`: how long to measure each of the sizes.
absl::Status RunTransferBench(Invocation& invocation, const std::vector<uint64_t>& sizes, absl::Duration seconds);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_BENCH_TRANSFER_H_
