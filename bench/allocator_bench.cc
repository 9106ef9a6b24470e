// How much memory does the allocator waste, and what does a call cost? Against malloc in the same
// run.
//
//   allocator_bench
//
// Prints, by size range, the internal waste (a block's bytes beyond the tensor's, worst and mean)
// and the nanoseconds of one Free and one Allocate in a segment that is kept 70 % full.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "server/allocator/block_allocator.h"

namespace penstock {
namespace {

constexpr uint64_t kSegmentBytes = uint64_t{4} << 30;  // never touched, so any size will do

struct SizeRange {
  uint64_t low, high;
};

// Sizes whose logarithm is even over the range.
uint64_t Draw(const SizeRange& range, std::mt19937_64& random) {
  const double u = std::uniform_real_distribution<double>(0, 1)(random);
  const double size = static_cast<double>(range.low) *
                      __builtin_pow(static_cast<double>(range.high) / range.low, u);
  return static_cast<uint64_t>(size);
}

void PrintWaste(const SizeRange& range, std::mt19937_64& random) {
  double worst = 0, taken = 0, asked = 0;
  for (int i = 0; i < 1000000; ++i) {
    const uint64_t nbytes = Draw(range, random);
    const auto block = static_cast<double>(BlockAllocator::BlockSize(nbytes));
    const auto size = static_cast<double>(nbytes);
    worst = std::max(worst, (block - size) / size);
    taken += block;
    asked += size;
  }
  std::printf("%12llu..%-12llu %6.2f %% %6.2f %%", static_cast<unsigned long long>(range.low),
              static_cast<unsigned long long>(range.high), worst * 100,
              (taken - asked) / asked * 100);
}

double Nanoseconds(std::chrono::steady_clock::time_point start, size_t operations) {
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  return spent.count() / static_cast<double>(operations);
}

// Frees a random block and allocates another, `count` times, with 70 % of the segment (but at most
// a million blocks) in use. Returns nanoseconds for the pair.
double PairCost(const SizeRange& range, std::mt19937_64& random) {
  struct Block {
    uint64_t offset, nbytes;
  };
  BlockAllocator allocator(kSegmentBytes);
  std::vector<Block> blocks;
  while (blocks.size() < 1000000 && allocator.used_bytes() < kSegmentBytes / 10 * 7) {
    const uint64_t nbytes = Draw(range, random);
    const auto offset = allocator.Allocate(nbytes);
    if (!offset) break;
    blocks.push_back({*offset, nbytes});
  }
  constexpr size_t kCount = 1000000;
  std::vector<Block> plan(kCount);  // .offset: which block to replace; drawn before the clock runs
  for (Block& step : plan) step = {random() % blocks.size(), Draw(range, random)};
  const auto start = std::chrono::steady_clock::now();
  for (const Block& step : plan) {
    Block& block = blocks[step.offset];
    allocator.Free(block.offset, block.nbytes);
    block.nbytes = step.nbytes;
    auto offset = allocator.Allocate(block.nbytes);
    if (!offset) {
      block.nbytes = 0;
      offset = 0;
    }
    block.offset = *offset;
  }
  return Nanoseconds(start, kCount);
}

double MallocPairCost(const SizeRange& range, std::mt19937_64& random) {
  if (range.high > 65536) return -1;  // larger ones are mmap calls: another question
  std::vector<void*> blocks(100000, nullptr);
  constexpr size_t kCount = 1000000;
  std::vector<std::pair<size_t, size_t>> plan(kCount);
  for (auto& step : plan) step = {random() % blocks.size(), Draw(range, random)};
  const auto start = std::chrono::steady_clock::now();
  for (const auto& [index, nbytes] : plan) {
    std::free(blocks[index]);
    blocks[index] = std::malloc(nbytes);
  }
  const double cost = Nanoseconds(start, kCount);
  for (void* block : blocks) std::free(block);
  return cost;
}

int Run() {
  std::mt19937_64 random(1);
  std::printf("%26s %8s %8s %14s %14s\n", "bytes", "worst", "mean", "free+alloc", "malloc pair");
  for (const SizeRange& range : {SizeRange{1, 16},
                                 {17, 256},
                                 {257, 2048},
                                 {2049, 32767},
                                 {32768, 1 << 20},
                                 {1 << 20, 32 << 20},
                                 {32 << 20, 1 << 30}}) {
    PrintWaste(range, random);
    std::printf(" %11.0f ns", PairCost(range, random));
    const double ceiling = MallocPairCost(range, random);
    if (ceiling >= 0) {
      std::printf(" %11.0f ns\n", ceiling);
    } else {
      std::printf(" %14s\n", "-");
    }
  }
  return 0;
}

}  // namespace
}  // namespace penstock

int main() { return penstock::Run(); }
