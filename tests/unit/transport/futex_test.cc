#include "transport/futex.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "tests/unit/transport/in_child.h"

namespace penstock {
namespace {

TEST(Futex, ReturnsAtOnceWhenTheValueHasChanged) {
  std::atomic<uint32_t> word{5};
  EXPECT_TRUE(FutexWait(&word, 4, absl::InfiniteDuration()));
}

TEST(Futex, TimesOut) {
  std::atomic<uint32_t> word{5};
  EXPECT_FALSE(FutexWait(&word, 5, absl::Milliseconds(1)));
  EXPECT_FALSE(FutexWait(&word, 5, -absl::Seconds(1)));
}

TEST(Futex, WakesAnotherProcess) {
  void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* ping = new (shared) std::atomic<uint32_t>(0);
  auto* pong = ping + 16;
  const pid_t child = fork();
  if (child == 0) {
    while (ping->load() == 0) FutexWait(ping, 0, absl::Seconds(10));
    pong->store(1);
    FutexWake(pong);
    _exit(0);
  }
  ping->store(1);
  FutexWake(ping);
  while (pong->load() == 0) ASSERT_TRUE(FutexWait(pong, 0, absl::Seconds(10)));
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(FutexWake(ping), 0) << "nobody waits any more";
  munmap(shared, 4096);
}

}  // namespace
}  // namespace penstock
