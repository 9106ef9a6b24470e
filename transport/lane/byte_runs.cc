#include "transport/lane/byte_runs.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace penstock {

uint64_t ByteRuns::bytes() const {
  uint64_t total = run_bytes;
  for (const RunDim& dim : dims) total *= dim.count;
  return total;
}

absl::Status ByteRuns::CheckWithin(uint64_t block_bytes) const {
  if (dims.size() > kMaxRunDims) {
    return absl::InvalidArgumentError(absl::StrCat("runs: ", dims.size(), " dimensions; at most ", kMaxRunDims));
  }
  uint64_t end = 0;  // of the last run
  uint64_t total = run_bytes;
  bool overflow = __builtin_add_overflow(offset, run_bytes, &end);
  bool empty = run_bytes == 0;
  for (const RunDim& dim : dims) empty = empty || dim.count == 0;
  if (empty) return absl::OkStatus();  // reads nothing, wherever it points
  for (const RunDim& dim : dims) {
    uint64_t span = 0;
    overflow = overflow || __builtin_mul_overflow(dim.count - 1, dim.stride_bytes, &span) ||
               __builtin_add_overflow(end, span, &end) || __builtin_mul_overflow(total, dim.count, &total);
  }
  if (overflow || end > block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "runs: offset ", offset, ", ", run_bytes, " bytes each, end ", overflow ? "beyond 2^64" : absl::StrCat("at ", end),
        "; the block has ", block_bytes, " bytes"));
  }
  return absl::OkStatus();
}

RunCursor::RunCursor(const ByteRuns& runs, uint64_t skip)
    : runs_(&runs), left_(runs.bytes()), run_offset_(runs.offset), in_run_(0), index_(runs.dims.size(), 0) {
  if (skip >= left_) {
    left_ = 0;
    return;
  }
  left_ -= skip;
  in_run_ = skip % runs.run_bytes;
  uint64_t run = skip / runs.run_bytes;
  for (size_t i = runs.dims.size(); i-- > 0;) {
    index_[i] = run % runs.dims[i].count;
    run /= runs.dims[i].count;
    run_offset_ += index_[i] * runs.dims[i].stride_bytes;
  }
}

RunCursor::Piece RunCursor::Next(uint64_t max_bytes) {
  const Piece piece{run_offset_ + in_run_, std::min({max_bytes, runs_->run_bytes - in_run_, left_})};
  left_ -= piece.length;
  in_run_ += piece.length;
  if (in_run_ == runs_->run_bytes && left_ > 0) NextRun();
  return piece;
}

void RunCursor::NextRun() {
  in_run_ = 0;
  for (size_t i = index_.size(); i-- > 0;) {
    const RunDim& dim = runs_->dims[i];
    run_offset_ += dim.stride_bytes;
    if (++index_[i] < dim.count) return;
    run_offset_ -= dim.count * dim.stride_bytes;
    index_[i] = 0;
  }
}

}  // namespace penstock
