// The loops of `penstock bench`: what one call costs, seen from a client.
//
// Threading:  one thread.
// Ownership:  the tensors that it makes are deleted when it ends, however it ends.
// Errors:     those of the calls.
// Limits:     a clock read (about 20 ns) is part of every sample.
#ifndef PENSTOCK_CLIENT_CLI_BENCH_LOOP_H_
#define PENSTOCK_CLIENT_CLI_BENCH_LOOP_H_

#include <penstock/client.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace penstock::cli {

struct BenchOptions {
  uint64_t tensor_bytes = 4096;
  uint64_t names = 1000;
  absl::Duration duration = absl::Seconds(2);
  int put_percent = 0;  // 0: gets only, 100: puts only
};

struct BenchResult {
  uint64_t operations = 0;
  double seconds = 0;
  std::vector<uint32_t> samples_ns;  // one per operation, at most kMaxBenchSamples of them
};

inline constexpr size_t kMaxBenchSamples = 1'000'000;

absl::StatusOr<BenchResult> RunBench(Client& client, const BenchOptions& options);

// `fraction` 0..1 of the sorted samples. Sorts them.
double Quantile(std::vector<uint32_t>& samples_ns, double fraction);
// "812 ns", "43.1 us", "1.2 s"
std::string TimeText(double ns);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_BENCH_LOOP_H_
