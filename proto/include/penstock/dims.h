// One whole number per dimension, at most kMaxRank of them, held inline.
//
// What shapes, strides and boxes are made of: trivially copyable and without allocation, so that a
// view can be made on the read path.
//
// Threading:  a value; as any plain struct.
// Ownership:  holds its numbers itself.
// Errors:     the constructors abort on more than kMaxRank numbers: check what comes from outside
// first. Limits:     136 bytes.
#ifndef PENSTOCK_DIMS_H_
#define PENSTOCK_DIMS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "absl/types/span.h"

namespace penstock {

// The largest number of dimensions of a tensor.
inline constexpr int kMaxRank = 16;

class Dims {
 public:
  constexpr Dims() = default;
  explicit Dims(absl::Span<const int64_t> values) : rank_(static_cast<int32_t>(values.size())) {
    if (values.size() > static_cast<size_t>(kMaxRank)) Abort(values.size());
    std::copy(values.begin(), values.end(), values_.begin());
  }
  Dims(std::initializer_list<int64_t> values)
      : Dims(absl::Span<const int64_t>(values.begin(), values.size())) {}

  // `rank` numbers, each `value`.
  static Dims Filled(int rank, int64_t value) {
    if (rank < 0 || rank > kMaxRank) Abort(static_cast<size_t>(rank));
    Dims dims;
    dims.rank_ = rank;
    std::fill_n(dims.values_.begin(), rank, value);
    return dims;
  }

  // `rank` is in [0, kMaxRank]; numbers beyond it keep whatever they were.
  void Assign(const int64_t* values, int rank) {
    for (int i = 0; i < rank; ++i) values_[static_cast<size_t>(i)] = values[i];
    rank_ = rank;
  }

  int rank() const { return rank_; }
  size_t size() const { return static_cast<size_t>(rank_); }
  const int64_t* data() const { return values_.data(); }
  const int64_t* begin() const { return values_.data(); }
  const int64_t* end() const { return values_.data() + rank_; }

  // `i` is in [0, rank).
  int64_t operator[](int i) const { return values_[static_cast<size_t>(i)]; }
  int64_t& operator[](int i) { return values_[static_cast<size_t>(i)]; }

  absl::Span<const int64_t> span() const { return {data(), size()}; }

  friend bool operator==(const Dims& a, const Dims& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }

 private:
  [[noreturn]] static void Abort(size_t rank) {
    std::fprintf(stderr, "penstock: Dims of rank %zu; at most %d\n", rank, kMaxRank);
    std::abort();
  }

  std::array<int64_t, kMaxRank> values_{};
  int32_t rank_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_DIMS_H_
