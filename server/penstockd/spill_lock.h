// The spill directory's lock: one store at a time may use it.
//
// The warden takes it before it forks the first node and holds it for its life, so it does not come free while a node process is
// replaced. The kernel drops it with the last process that has it.
//
// Threading:  before there are threads
// Ownership:  the lock lasts as long as the descriptor
// Errors:     ALREADY_EXISTS that names the flag, when another store has it; those of the file system
// Limits:     as good as flock() on that file system: not over every network file system
#ifndef PENSTOCK_SERVER_PENSTOCKD_SPILL_LOCK_H_
#define PENSTOCK_SERVER_PENSTOCKD_SPILL_LOCK_H_

#include <string>

#include "absl/status/statusor.h"
#include "transport/unique_fd.h"

namespace penstock::server {

// Makes the directory if it is not there.
absl::StatusOr<UniqueFd> LockSpillDir(const std::string& directory);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_SPILL_LOCK_H_
