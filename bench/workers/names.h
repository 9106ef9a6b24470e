// NumberedName: the names of a store with very many small tensors, as suites fill and read it.
//
// Threading:  any thread
// Ownership:  borrows the client
// Errors:     PutNumberedNames: the first tensor's that could not be put (a full store)
// Limits:     32 bytes a tensor, 4,000 tensors a call
#ifndef PENSTOCK_BENCH_WORKERS_NAMES_H_
#define PENSTOCK_BENCH_WORKERS_NAMES_H_

#include <penstock/client.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace penstock::bench {

inline constexpr uint64_t kNumberedTensorBytes = 32;
inline constexpr char kNumberedPrefix[] = "bench/names/";

// "bench/names/00000042": 20 bytes each, so that the bytes of names are known.
std::string NumberedName(uint64_t number);

// Puts tensors 0..count-1.
absl::Status PutNumberedNames(Client& client, uint64_t count);

}  // namespace penstock::bench

#endif  // PENSTOCK_BENCH_WORKERS_NAMES_H_
