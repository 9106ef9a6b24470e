#include "transport/copy/copy.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace penstock {
namespace {

uint64_t Seed() {
  const char* given = std::getenv("PENSTOCK_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

std::vector<char> RandomBytes(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<char> bytes(size);
  for (size_t i = 0; i < size; i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, size - i));
  }
  return bytes;
}

// Copies `size` bytes between these offsets and checks them and the guard bytes around them.
template <class Copy>
void CheckCopy(const std::vector<char>& source, size_t dst_offset, size_t src_offset, size_t size,
               Copy copy) {
  std::vector<char> target(dst_offset + size + 64, 0x11);
  copy(target.data() + dst_offset, source.data() + src_offset, size);
  ASSERT_TRUE(size == 0 ||
              std::memcmp(target.data() + dst_offset, source.data() + src_offset, size) == 0)
      << "size " << size << " to +" << dst_offset << " from +" << src_offset;
  for (size_t i = 0; i < dst_offset; ++i) ASSERT_EQ(target[i], 0x11) << "before " << size;
  for (size_t i = dst_offset + size; i < target.size(); ++i) {
    ASSERT_EQ(target[i], 0x11) << "after " << size;
  }
}

TEST(CopyBytes, EverySmallSize) {
  const std::vector<char> source = RandomBytes(1024, 1);
  for (size_t size = 0; size <= 600; ++size) CheckCopy(source, size % 7, size % 5, size, CopyBytes);
}

TEST(CopyBytes, StreamedSizesAtEveryAlignment) {
  const std::vector<char> source = RandomBytes(kStreamingBytes + 1024, 2);
  for (size_t alignment = 0; alignment < 64; ++alignment) {
    CheckCopy(source, alignment, 63 - alignment, kStreamingBytes + alignment * 3, CopyBytes);
  }
  for (const size_t around : {kStreamingBytes - 1, kStreamingBytes, kStreamingBytes + 1}) {
    CheckCopy(source, 0, 0, around, CopyBytes);
  }
}

TEST(CopyBytesParallel, EqualsTheSourceForAnyThreadCount) {  // 97 MiB: up to three threads
  const std::vector<char> source = RandomBytes((size_t{97} << 20) + 77, 3);
  for (const int threads : {-1, 2, 3}) {
    CheckCopy(source, 5, 3, source.size() - 3, [&](void* dst, const void* src, size_t size) {
      CopyBytesParallel(dst, src, size, threads);
    });
  }
  CheckCopy(source, 0, 0, 100,
            [](void* dst, const void* src, size_t size) { CopyBytesParallel(dst, src, size, 4); });
}

struct Layout {
  std::vector<int64_t> strides;
  int64_t first = 0;  // offset of the first element
  int64_t bytes = 0;  // of the whole buffer
};

// A random layout of distinct elements: dimensions in random order, padding, reversed directions.
Layout RandomLayout(const std::vector<int64_t>& shape, int64_t itemsize, std::mt19937_64& random) {
  Layout layout;
  layout.strides.resize(shape.size());
  std::vector<size_t> order(shape.size());
  std::iota(order.begin(), order.end(), 0);
  if (random() % 2) std::shuffle(order.begin(), order.end(), random);
  int64_t step = itemsize;
  for (auto it = order.rbegin(); it != order.rend(); ++it) {
    if (random() % 4 == 0) step += itemsize * static_cast<int64_t>(random() % 3);
    layout.strides[*it] = step;
    const int64_t extent = std::max<int64_t>(shape[*it], 1);
    if (random() % 4 == 0) {
      layout.first += step * (extent - 1);
      layout.strides[*it] = -step;
    }
    step *= extent;
  }
  layout.bytes = step;
  return layout;
}

void NaiveCopy(const StridedCopy& copy, size_t dim, int64_t dst, int64_t src) {
  if (dim == copy.shape.size()) {
    std::memcpy(static_cast<char*>(copy.dst) + dst, static_cast<const char*>(copy.src) + src,
                copy.itemsize);
    return;
  }
  for (int64_t i = 0; i < copy.shape[dim]; ++i) {
    NaiveCopy(copy, dim + 1, dst + i * copy.dst_strides[dim], src + i * copy.src_strides[dim]);
  }
}

TEST(CopyStrided, EqualsTheNaiveLoopsOnRandomLayouts) {
  const uint64_t seed = Seed();
  SCOPED_TRACE("PENSTOCK_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 1500; ++round) {
    const int64_t itemsizes[] = {1, 2, 3, 4, 8, 12, 16};
    const int64_t itemsize = itemsizes[random() % 7];
    std::vector<int64_t> shape(random() % 6);
    for (int64_t& extent : shape) {
      extent = random() % 20 == 0 ? 0 : static_cast<int64_t>(1 + random() % 9);
    }
    if (shape.size() == 2 && random() % 2) shape = {70, 45};  // more than one tile
    if (random() % 50 == 0) shape.assign(16, 1);
    const Layout to = RandomLayout(shape, itemsize, random);
    Layout from = RandomLayout(shape, itemsize, random);
    if (!shape.empty() && random() % 8 == 0) from.strides[random() % shape.size()] = 0;
    const std::vector<char> source = RandomBytes(static_cast<size_t>(from.bytes) + 1, random());
    std::vector<char> got(static_cast<size_t>(to.bytes) + 1, 0x22), want = got;
    StridedCopy copy{.dst = got.data() + to.first,
                     .src = source.data() + from.first,
                     .shape = shape,
                     .dst_strides = to.strides,
                     .src_strides = from.strides,
                     .itemsize = static_cast<size_t>(itemsize)};
    ASSERT_TRUE(CopyStrided(copy).ok());
    copy.dst = want.data() + to.first;
    NaiveCopy(copy, 0, 0, 0);
    ASSERT_EQ(got, want) << "round " << round;
  }
}

TEST(CopyStrided, SixteenDimensions) {
  const std::vector<int64_t> shape(16, 2);
  std::vector<int64_t> forward(16), backward(16);
  for (int i = 0; i < 16; ++i) forward[15 - i] = backward[i] = int64_t{1} << i;
  const std::vector<char> source = RandomBytes(1 << 16, 4);
  std::vector<char> got(1 << 16), want(1 << 16);
  StridedCopy copy{got.data(), source.data(), shape, forward, backward, 1};
  ASSERT_TRUE(CopyStrided(copy).ok());
  copy.dst = want.data();
  NaiveCopy(copy, 0, 0, 0);
  EXPECT_EQ(got, want);
}

TEST(CopyStrided, ScalarAndEmpty) {
  int64_t from = 42, to = 0;
  ASSERT_TRUE(CopyStrided({&to, &from, {}, {}, {}, 8}).ok());
  EXPECT_EQ(to, 42);
  const int64_t shape[] = {3, 0}, strides[] = {8, 8};
  from = 43;
  ASSERT_TRUE(CopyStrided({&to, &from, shape, strides, strides, 8}).ok());
  EXPECT_EQ(to, 42) << "an empty array copies nothing";
}

TEST(CopyStrided, RefusesListsThatDoNotMatch) {
  char byte = 0;
  const std::vector<int64_t> seventeen(17, 1), two(2, 1), negative = {-1, 1};
  const auto code = [&](const StridedCopy& copy) { return CopyStrided(copy).code(); };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({&byte, &byte, seventeen, seventeen, seventeen, 1}), invalid);
  EXPECT_EQ(code({&byte, &byte, two, seventeen, two, 1}), invalid);
  EXPECT_EQ(code({&byte, &byte, two, two, {}, 1}), invalid);
  EXPECT_EQ(code({&byte, &byte, two, two, two, 0}), invalid);
  EXPECT_EQ(code({&byte, &byte, negative, two, two, 1}), invalid);
}

}  // namespace
}  // namespace penstock
