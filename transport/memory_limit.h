// MemoryLimit: how much memory this process may still take before somebody is killed for it.
//
// The budget of a node is min(--memory, limit - usage - reserve) (DESIGN 3). The limit is the
// tightest of the host and of every cgroup (v1 or v2) from this process's own up to the root: a
// parent's limit kills as surely as one's own.
//
// Threading:  any thread; a snapshot that is old when it is returned
// Ownership:  plain values
// Errors:     UNAVAILABLE if /proc/meminfo cannot be read; cgroups that cannot be read do not limit
// Limits:     about ten small files a call; not for hot paths
#ifndef PENSTOCK_TRANSPORT_MEMORY_LIMIT_H_
#define PENSTOCK_TRANSPORT_MEMORY_LIMIT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace penstock {

struct MemoryLimit {
  uint64_t total = 0;      // memory of the host
  uint64_t limit = 0;      // tightest limit; total when no cgroup limits
  uint64_t usage = 0;      // charged against that limit, without file cache that can be dropped
  uint64_t available = 0;  // least that is left over all levels, the host's MemAvailable included
  std::string source;      // what gives `limit`: "host", or the cgroup's directory
};

// `root` is put before every absolute path: empty for the real system, a fake tree in tests.
absl::StatusOr<MemoryLimit> ReadMemoryLimit(const std::string& root = "");

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_MEMORY_LIMIT_H_
