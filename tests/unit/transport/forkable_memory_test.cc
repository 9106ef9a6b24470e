#include "transport/ucx/forkable_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

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

}  // namespace
}  // namespace penstock::ucx
