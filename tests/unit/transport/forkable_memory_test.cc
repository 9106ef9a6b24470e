#include "transport/ucx/forkable_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

#include "tests/unit/transport/in_child.h"

namespace penstock::ucx {
namespace {

constexpr size_t kPage = 4096;

class Forkable : public ::testing::Test {
 protected:
  void SetUp() override {
    void* mapped = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    memory_ = static_cast<char*>(mapped);
    for (size_t i = 0; i < kPages; ++i) memory_[i * kPage] = 'm';
  }
  void TearDown() override { ASSERT_EQ(munmap(memory_, kPages * kPage), 0); }

  absl::Span<char> Pages(size_t first, size_t count) { return {memory_ + first * kPage, count * kPage}; }
  // As UCX does when it registers.
  void Take(absl::Span<char> pages) { ASSERT_EQ(madvise(pages.data(), pages.size(), MADV_DONTFORK), 0); }
  bool ChildHas(size_t page) {
    return InChild([this, page] {
             unsigned char there = 0;
             return mincore(memory_ + page * kPage, kPage, &there) == 0 && memory_[page * kPage] == 'm' ? 0 : 1;
           }) == 0;
  }

  static constexpr size_t kPages = 6;
  char* memory_ = nullptr;
};

TEST_F(Forkable, WhatWasTakenIsGivenBack) {
  ForkableMemory forkable;
  Take(Pages(1, 2));
  ASSERT_FALSE(ChildHas(1)) << "else there is nothing to test";
  forkable.Add(Pages(1, 2).subspan(100, kPage));  // whole pages are taken
  forkable.LeaveToChild();
  EXPECT_TRUE(ChildHas(1));
  EXPECT_TRUE(ChildHas(2));
}

TEST_F(Forkable, WhatOverlapsIsTakenTogetherAndGivenBackTogether) {
  ForkableMemory forkable;
  forkable.Add(Pages(0, 2));
  forkable.Add(Pages(3, 2));
  Take(Pages(0, 5));
  forkable.Add(Pages(1, 3));
  forkable.LeaveToChild();
  for (size_t page = 0; page < 5; ++page) EXPECT_TRUE(ChildHas(page)) << page;
}

TEST_F(Forkable, OthersPagesStayAsTheyAre) {
  ForkableMemory forkable;
  Take(Pages(4, 1));
  forkable.Add(Pages(0, 2));
  forkable.LeaveToChild();
  EXPECT_FALSE(ChildHas(4));
}

// [vvar] of /proc/self/maps: the kernel's clock, which is mapped as a device's registers are (VM_IO).
absl::Span<char> ClockPages() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (line.find("[vvar]") == std::string::npos || std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2) continue;
    return {reinterpret_cast<char*>(begin), end - begin};
  }
  return {};
}

TEST_F(Forkable, WhatLiesBehindADevicesRegistersIsGivenBackToo) {
  const absl::Span<char> registers = ClockPages();
  if (registers.empty() || registers.size() > 4 * kPage) GTEST_SKIP() << "no [vvar] of at most 4 pages here";
  // In a child: it has no clock any more.
  EXPECT_EQ(InChild([&] {
              ForkableMemory forkable;
              forkable.Add(Pages(0, kPages));
              if (madvise(memory_, kPages * kPage, MADV_DONTFORK) != 0) return 2;
              // The call itself: UCX puts a mremap of its own before libc's, which forgets the new address (1.13).
              if (syscall(SYS_mremap, registers.data(), registers.size(), registers.size(), MREMAP_MAYMOVE | MREMAP_FIXED, memory_ + kPage) < 0) return 3;
              if (madvise(memory_, kPages * kPage, MADV_DOFORK) == 0 || errno != EINVAL) return 4;
              forkable.LeaveToChild();
              return ChildHas(0) && ChildHas(kPages - 1) ? 0 : 1;
            }),
            0);
}

}  // namespace
}  // namespace penstock::ucx
