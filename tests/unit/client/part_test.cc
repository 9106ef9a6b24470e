#include "client/part.h"

#include <gtest/gtest.h>

#include <numeric>

namespace penstock::client {
namespace {

Shape Of(std::initializer_list<int64_t> dims) { return Shape(absl::MakeConstSpan(dims.begin(), dims.size())); }

Box BoxOf(std::initializer_list<int64_t> offset, std::initializer_list<int64_t> extent) {
  Box box{.offset = Dims::Filled(static_cast<int>(offset.size()), 0), .extent = Dims::Filled(static_cast<int>(extent.size()), 0)};
  int i = 0;
  for (int64_t n : offset) box.offset[i++] = n;
  i = 0;
  for (int64_t n : extent) box.extent[i++] = n;
  return box;
}

// The offsets of all bytes, as RunCursor gives them.
std::vector<uint64_t> Bytes(const ByteRuns& runs) {
  std::vector<uint64_t> bytes;
  for (RunCursor at(runs); !at.done();) {
    const RunCursor::Piece piece = at.Next(~uint64_t{0});
    for (uint64_t i = 0; i < piece.length; ++i) bytes.push_back(piece.offset + i);
  }
  return bytes;
}

TEST(Part, ABoxOfRowsIsOneRun) {
  ByteRuns runs;
  ASSERT_TRUE(RunsOf(PartOf(BoxOf({2, 0, 0}, {3, 5, 7}), DType::kF32, Of({10, 5, 7})), DType::kF32, &runs));
  EXPECT_EQ(runs.offset, 2u * 35 * 4);
  EXPECT_EQ(runs.run_bytes, 3u * 35 * 4);
  EXPECT_TRUE(runs.dims.empty());
}

TEST(Part, FullInnerDimensionsAreMerged) {
  ByteRuns runs;
  ASSERT_TRUE(RunsOf(PartOf(BoxOf({0, 1, 0}, {10, 2, 7}), DType::kF32, Of({10, 5, 7})), DType::kF32, &runs));
  EXPECT_EQ(runs.run_bytes, 2u * 7 * 4);
  ASSERT_EQ(runs.dims.size(), 1u);
  EXPECT_EQ(runs.dims[0].count, 10u);
  EXPECT_EQ(runs.dims[0].stride_bytes, 35u * 4);
}

TEST(Part, RunsAreTheBytesOfTheWalkInOrder) {
  const Shape shape = Of({4, 3, 5});
  for (const Box& box : {BoxOf({1, 1, 2}, {3, 2, 2}), BoxOf({0, 0, 4}, {4, 3, 1}), BoxOf({3, 0, 0}, {1, 3, 5}), BoxOf({0, 2, 0}, {4, 1, 5})}) {
    const Part part = PartOf(box, DType::kI16, shape);
    ByteRuns runs;
    ASSERT_TRUE(RunsOf(part, DType::kI16, &runs));
    std::vector<uint64_t> want;
    for (int64_t i = 0; i < part.shape.dim(0); ++i) {
      for (int64_t j = 0; j < part.shape.dim(1); ++j) {
        for (int64_t k = 0; k < part.shape.dim(2); ++k) {
          const uint64_t at = part.offset_bytes + static_cast<uint64_t>(i * part.strides[0] + j * part.strides[1] + k * part.strides[2]);
          want.insert(want.end(), {at, at + 1});
        }
      }
    }
    EXPECT_EQ(Bytes(runs), want) << box.ToString();
  }
}

TEST(Part, AnEmptyOneHasNoBytes) {
  ByteRuns runs = ByteRuns::Whole(7);
  ASSERT_TRUE(RunsOf(PartOf(BoxOf({5, 5}, {0, 0}), DType::kF64, Of({5, 5})), DType::kF64, &runs));
  EXPECT_EQ(runs.bytes(), 0u);
}

TEST(Part, BackwardsIsNoRun) {
  ByteRuns runs;
  EXPECT_FALSE(RunsOf({.offset_bytes = 36, .shape = Of({10}), .strides = {-4}}, DType::kF32, &runs));
}

TEST(Part, WhatReachesOutsideIsRefused) {
  const Shape shape = Of({10, 10});
  const auto check = [&](const Part& part) { return CheckPart(part, DType::kF32, shape); };
  EXPECT_TRUE(check({.offset_bytes = 0, .shape = shape, .strides = {40, 4}}).ok());
  EXPECT_TRUE(check({.offset_bytes = 396, .shape = Of({100}), .strides = {-4}}).ok());
  EXPECT_TRUE(check({.offset_bytes = ~uint64_t{0}, .shape = Of({0}), .strides = {4}}).ok()) << "nothing is read";
  EXPECT_TRUE(check({.offset_bytes = 4, .shape = Of({5, 5}), .strides = {0, 0}}).ok()) << "one element again and again";
  for (const Part& part : {Part{.offset_bytes = 4, .shape = shape, .strides = {40, 4}}, Part{.offset_bytes = 398, .shape = Of({1}), .strides = {4}},
                           Part{.offset_bytes = 0, .shape = Of({2}), .strides = {-4}}, Part{.offset_bytes = ~uint64_t{0}, .shape = Of({1}), .strides = {4}},
                           Part{.offset_bytes = 8, .shape = Of({int64_t{1} << 40}), .strides = {INT64_MIN}},
                           Part{.offset_bytes = 0, .shape = Of({3, 3}), .strides = {INT64_MAX, INT64_MIN}},
                           Part{.offset_bytes = 0, .shape = Of({2, 2}), .strides = {4}}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(check(part))) << part.shape.ToString();
  }
}

}  // namespace
}  // namespace penstock::client
