#include "client/files/fortran_order.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace penstock {
namespace {

// One plane: out[i][j] = in[j][i], where i is the first dimension (dense in Fortran order) and j
// the last (dense in C order). Steps are in elements.
template <size_t kItemBytes>
void TransposePlane(int64_t rows, int64_t columns, const std::byte* in, int64_t in_step,
                    std::byte* out, int64_t out_step) {
  constexpr int64_t kBlock = 32;
  for (int64_t i0 = 0; i0 < rows; i0 += kBlock) {
    for (int64_t j0 = 0; j0 < columns; j0 += kBlock) {
      const int64_t i1 = std::min(i0 + kBlock, rows);
      const int64_t j1 = std::min(j0 + kBlock, columns);
      for (int64_t i = i0; i < i1; ++i) {
        for (int64_t j = j0; j < j1; ++j) {
          std::memcpy(out + (i * out_step + j) * static_cast<int64_t>(kItemBytes),
                      in + (j * in_step + i) * static_cast<int64_t>(kItemBytes), kItemBytes);
        }
      }
    }
  }
}

// All planes: the dimensions between the first and the last are counted through.
template <size_t kItemBytes>
void Transpose(const Shape& shape, const std::byte* in, std::byte* out) {
  const int last = shape.rank() - 1;
  const int64_t count = shape.num_elements();
  const int64_t in_step = count / shape.dim(last);  // of the last dimension, in Fortran order
  const int64_t out_step = count / shape.dim(0);    // of the first dimension, in C order
  int64_t in_steps[kMaxRank];
  int64_t out_steps[kMaxRank];
  int64_t in_product = shape.dim(0);
  for (int i = 1; i < last; ++i) {
    in_steps[i] = in_product;
    in_product *= shape.dim(i);
  }
  int64_t out_product = shape.dim(last);
  for (int i = last - 1; i > 0; --i) {
    out_steps[i] = out_product;
    out_product *= shape.dim(i);
  }
  int64_t position[kMaxRank] = {};
  int64_t in_offset = 0;
  int64_t out_offset = 0;
  for (;;) {
    TransposePlane<kItemBytes>(shape.dim(0), shape.dim(last),
                               in + in_offset * static_cast<int64_t>(kItemBytes), in_step,
                               out + out_offset * static_cast<int64_t>(kItemBytes), out_step);
    int dim = last - 1;
    for (; dim > 0; --dim) {
      in_offset += in_steps[dim];
      out_offset += out_steps[dim];
      if (++position[dim] < shape.dim(dim)) break;
      in_offset -= shape.dim(dim) * in_steps[dim];
      out_offset -= shape.dim(dim) * out_steps[dim];
      position[dim] = 0;
    }
    if (dim <= 0) return;
  }
}

}  // namespace

void FortranToC(const Shape& shape, size_t item_bytes, const std::byte* fortran, std::byte* c) {
  const int64_t count = shape.num_elements();
  if (count == 0) return;
  if (shape.rank() < 2) {
    std::memcpy(c, fortran, static_cast<size_t>(count) * item_bytes);
    return;
  }
  switch (item_bytes) {
    case 1:
      return Transpose<1>(shape, fortran, c);
    case 2:
      return Transpose<2>(shape, fortran, c);
    case 4:
      return Transpose<4>(shape, fortran, c);
    case 8:
      return Transpose<8>(shape, fortran, c);
    default:
      return Transpose<16>(shape, fortran, c);
  }
}

}  // namespace penstock
