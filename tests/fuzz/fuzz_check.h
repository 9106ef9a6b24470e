// What a fuzzer holds to be true of every input: FUZZ_CHECK(sum == size) stops the run when it is
// not.
#ifndef PENSTOCK_TESTS_FUZZ_FUZZ_CHECK_H_
#define PENSTOCK_TESTS_FUZZ_FUZZ_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "absl/types/span.h"

#define FUZZ_CHECK(condition)                                                        \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                  \
    }                                                                                \
  } while (false)

namespace penstock {

inline absl::Span<const std::byte> FuzzBytes(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

// Reads every byte, so that the address sanitizer sees a span that leaves its memory.
inline uint8_t Touch(absl::Span<const std::byte> bytes) {
  uint8_t sum = 0;
  for (const std::byte b : bytes) sum = static_cast<uint8_t>(sum + std::to_integer<uint8_t>(b));
  volatile uint8_t sink = sum;
  return sink;
}

}  // namespace penstock

#endif  // PENSTOCK_TESTS_FUZZ_FUZZ_CHECK_H_
