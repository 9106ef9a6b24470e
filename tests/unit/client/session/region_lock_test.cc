#include "client/session/region_lock.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace penstock::client {
namespace {

using layout::HoldState;
using layout::HoldWord;

const RegionLock::LookAround kGoOn = [] { return absl::OkStatus(); };

class RegionLockTest : public ::testing::Test {
 protected:
  RegionLock Lock() { return RegionLock(region_.get(), &turns_); }
  absl::StatusOr<uint32_t> Read(uint64_t owner, absl::Duration timeout = absl::ZeroDuration()) {
    return Lock().Read({.session = 1, .owner = owner}, Deadline::After(timeout), kGoOn);
  }
  absl::StatusOr<uint32_t> Write(uint64_t owner, absl::Duration timeout = absl::ZeroDuration()) {
    return Lock().Write({.session = 1, .owner = owner}, Deadline::After(timeout), kGoOn);
  }

  std::unique_ptr<layout::RegionHeader> region_ = std::make_unique<layout::RegionHeader>();
  Turns turns_;
};

TEST_F(RegionLockTest, ReadersShareAndAWriterIsAlone) {
  const uint32_t one = *Read(1), two = *Read(2);
  EXPECT_NE(one, two);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Write(3).status()));
  Lock().EndRead(one);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Write(3).status()));
  Lock().EndRead(two);
  const uint32_t writer = *Write(3);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Read(1).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(Write(2).status()));
  Lock().EndWrite(writer);
  EXPECT_TRUE(Read(1).ok());
}

TEST_F(RegionLockTest, SessionsAndOwnersAreKeptApart) {
  const RegionLock::Asker mine{.session = 1, .owner = 5}, same_thread_elsewhere{.session = 2, .owner = 5};
  const uint32_t slot = *Lock().Write(mine, Deadline::Never(), kGoOn);
  EXPECT_TRUE(absl::IsFailedPrecondition(Lock().Read(mine, Deadline::Never(), kGoOn).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(Lock().Read(same_thread_elsewhere, Deadline::After(absl::ZeroDuration()), kGoOn).status()));
  Lock().EndWrite(slot);
}

TEST_F(RegionLockTest, AllSlotsTaken) {
  for (uint32_t i = 0; i < layout::kHoldSlots; ++i) ASSERT_TRUE(Read(i + 1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Read(1000).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(Write(1000).status()));
  Lock().EndRead(7);
  EXPECT_EQ(*Read(1000), 7u);
}

TEST_F(RegionLockTest, LookAroundEndsAWait) {
  const uint32_t slot = *Write(1);
  const auto stop = [] { return absl::CancelledError("stop"); };
  EXPECT_TRUE(absl::IsCancelled(Lock().Read({.session = 1, .owner = 2}, Deadline::Never(), stop).status()));
  EXPECT_TRUE(absl::IsCancelled(Lock().Write({.session = 1, .owner = 2}, Deadline::Never(), stop).status()));
  Lock().EndWrite(slot);
  EXPECT_TRUE(Write(3).ok()) << "who gave up left nothing behind";
}

TEST_F(RegionLockTest, EndOfAWriteLetsReadersGoBeforeTheNextWriter) {
  const uint32_t slot = *Write(1);
  std::atomic<bool> wrote{false};
  const auto waiting = [&](HoldState state) {
    int count = 0;
    for (const layout::HoldSlot& one : region_->slots) count += layout::StateOfHold(one.word.load()) == state;
    return count;
  };
  std::thread writer([&] {
    const uint32_t mine = *Write(2, absl::Seconds(20));
    wrote = true;
    Lock().EndWrite(mine);
  });
  while (waiting(HoldState::kWantWrite) != 1) absl::SleepFor(absl::Microseconds(50));
  bool before_writer = false;
  std::thread reader([&] {
    const uint32_t mine = *Read(3, absl::Seconds(20));
    before_writer = !wrote;
    Lock().EndRead(mine);
  });
  while (waiting(HoldState::kWantRead) != 1) absl::SleepFor(absl::Microseconds(50));
  Lock().EndWrite(slot);
  reader.join();
  writer.join();
  EXPECT_TRUE(before_writer);
}

TEST_F(RegionLockTest, StoppedWaiterDoesNotKeepAFreeLock) {
  // A writer of another process that came first, and was stopped before it could take what is free.
  layout::HoldSlot& stopped = region_->slots[9];
  stopped.session.store(2);
  region_->used.store(10);
  stopped.word.store(HoldWord(HoldState::kWantWrite, region_->next_ticket.fetch_add(1)));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(Write(1, absl::Seconds(20)).ok());
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

// Threads that read, write and give up at random. What a writer does to two plain numbers nobody may see half-done.
TEST_F(RegionLockTest, NobodySeesHalfAWrite) {
  constexpr int kThreads = 4;
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  uint64_t left = 0, right = 0;
  std::atomic<uint64_t> writes{0}, torn{0}, turns{0};
  const absl::Time end = absl::Now() + absl::Seconds(1.5);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(seed + static_cast<unsigned>(t));
      const auto owner = static_cast<uint64_t>(t + 1);
      while (absl::Now() < end) {
        const bool write = random() % 2 == 0;
        const absl::Duration patience = random() % 4 == 0 ? absl::ZeroDuration() : absl::Seconds(20);
        const absl::StatusOr<uint32_t> slot = write ? Write(owner, patience) : Read(owner, patience);
        if (!slot.ok()) continue;
        if (left != right) ++torn;
        if (write) {
          ++left;
          ++writes;
          ++right;
        }
        ++turns;
        write ? Lock().EndWrite(*slot) : Lock().EndRead(*slot);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(torn, 0u);
  EXPECT_EQ(left, writes);
  EXPECT_GT(turns, 1000u);
  EXPECT_EQ(region_->writer.load(), 0u);
  for (const layout::HoldSlot& slot : region_->slots) EXPECT_EQ(slot.word.load(), 0u);
}

}  // namespace
}  // namespace penstock::client
