// ByteRuns: which bytes of a block a transfer moves, as equal runs at regular distances.
//
// A whole block is one run; a box of a tensor is runs of equal length, `dims` says how they repeat (outermost first). In
// this form a request of any box has a small fixed size, whatever the number of runs.
//
//   ByteRuns column{.offset = 4, .run_bytes = 4, .dims = {{.count = 1000, .stride_bytes = 4096}}};
//   for (RunCursor at(column); !at.done();) { auto [offset, length] = at.Next(1 << 20); ... }
//
// Threading:  values.
// Ownership:  numbers only.
// Errors:     CheckWithin: INVALID_ARGUMENT that names the field.
// Limits:     kMaxRunDims dimensions; strides are not negative; all sums are checked for overflow.
#ifndef PENSTOCK_TRANSPORT_LANE_BYTE_RUNS_H_
#define PENSTOCK_TRANSPORT_LANE_BYTE_RUNS_H_

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"

namespace penstock {

inline constexpr size_t kMaxRunDims = 16;

struct RunDim {
  uint64_t count = 0;
  uint64_t stride_bytes = 0;
};

struct ByteRuns {
  uint64_t offset = 0;
  uint64_t run_bytes = 0;
  absl::InlinedVector<RunDim, 4> dims;

  static ByteRuns Whole(uint64_t bytes) { return {.run_bytes = bytes}; }

  // All runs together. Only after CheckWithin.
  uint64_t bytes() const;
  // OK if every run lies inside [0, block_bytes).
  absl::Status CheckWithin(uint64_t block_bytes) const;
};

// Goes through the bytes of `runs` in order, from the `skip`th on. `runs` must outlive it and be checked.
class RunCursor {
 public:
  explicit RunCursor(const ByteRuns& runs, uint64_t skip = 0);

  struct Piece {
    uint64_t offset = 0;
    uint64_t length = 0;
  };
  bool done() const { return left_ == 0; }
  uint64_t left() const { return left_; }
  uint64_t offset() const { return run_offset_ + in_run_; }  // of the next piece
  // The rest of the present run, at most `max_bytes` of it; the cursor moves behind it.
  Piece Next(uint64_t max_bytes);

 private:
  void NextRun();

  const ByteRuns* runs_;
  uint64_t left_;
  uint64_t run_offset_;  // of the present run, from the block's start
  uint64_t in_run_;
  absl::InlinedVector<uint64_t, 4> index_;
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_LANE_BYTE_RUNS_H_
