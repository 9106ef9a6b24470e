// CopyBytes: memcpy that does not read what it overwrites when the copy is large.
//
// Above kStreamingBytes the destination is written with non-temporal stores: a plain store first
// loads the line it is about to overwrite and throws other people's data out of the cache.
//
// Threading:  any thread; source and destination must not overlap and must not be written
// meanwhile.
//             On return the stores are visible as after memcpy (fenced)
// Ownership:  borrows both ranges
// Errors:     none; CopyStrided: INVALID_ARGUMENT (rank over 16, lists of unlike length, a negative
//             extent)
// Limits:     AVX2 by run-time dispatch, SSE2 on other x86, memcpy elsewhere; any alignment
#ifndef PENSTOCK_TRANSPORT_COPY_COPY_H_
#define PENSTOCK_TRANSPORT_COPY_COPY_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace penstock {

// From here up the destination is streamed; transport/copy/copy.cc has the measurement. Memory that
// another core reads at once (a staging ring) is better filled with memcpy: it stays in the cache.
inline constexpr size_t kStreamingBytes = size_t{256} << 10;

void CopyBytes(void* dst, const void* src, size_t bytes);

// The same for a part of a larger copy, whose destination is streamed as a whole.
void StreamPart(void* dst, const void* src, size_t bytes);

// As CopyBytes, cut over at most `threads` threads (this one included) if the copy is large enough
// that starting them pays. threads <= 1 is CopyBytes.
void CopyBytesParallel(void* dst, const void* src, size_t bytes, int threads);

struct StridedCopy {
  void* dst = nullptr;                    // first element
  const void* src = nullptr;              // first element
  absl::Span<const int64_t> shape;        // elements per dimension, at most 16 dimensions
  absl::Span<const int64_t> dst_strides;  // bytes; may be negative
  absl::Span<const int64_t> src_strides;  // bytes; may be negative or 0
  size_t itemsize = 0;                    // bytes of one element, any number above 0
};

// Copies an n-dimensional array between two layouts. Dimensions that are contiguous on both sides
// are merged; a transposition is done in tiles.
absl::Status CopyStrided(const StridedCopy& copy);

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_COPY_COPY_H_
