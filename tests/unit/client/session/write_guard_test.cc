// WriteGuard: who may write to which page, over large and small blocks.
#include "client/session/write_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "transport/segment/memfd.h"

namespace penstock::client {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBytes = uint64_t{32} << 20;
constexpr uint64_t kLarge = WriteGuard::kMoveBytes;

class WriteGuardTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto memfd =
        CreateMemfd({.name = "write-guard-test", .size = kBytes, .want = PageKind::kSmall});
    ASSERT_TRUE(memfd.ok()) << memfd.status();
    auto writable = Mapping::MapWritable(memfd->fd(), kBytes);
    auto readable = Mapping::MapReadOnly(memfd->fd(), kBytes);
    ASSERT_TRUE(writable.ok() && readable.ok());
    ASSERT_TRUE(SealFutureWrite(memfd->fd()).ok());
    ASSERT_TRUE(writable->DontFork().ok());
    writable_ = *std::move(writable);
    readable_ = *std::move(readable);
    memset(writable_.data(), 1, kBytes);
    ASSERT_EQ(pipe(pipe_), 0);
  }
  void TearDown() override {
    close(pipe_[0]);
    close(pipe_[1]);
  }

  // Lets the kernel write one byte there: an error, not a signal, when the page is read-only.
  bool CanWrite(uint64_t offset, char value = 2) {
    EXPECT_EQ(write(pipe_[1], &value, 1), 1);
    if (read(pipe_[0], writable_.data() + offset, 1) == 1) return true;
    EXPECT_EQ(read(pipe_[0], &value, 1), 1);
    return false;
  }

  Mapping writable_;
  Mapping readable_;
  WriteGuard guard_;
  int pipe_[2] = {-1, -1};
};

TEST_F(WriteGuardTest, LargeBlockIsReadOnlyAndItsNeighboursAreNot) {
  const uint64_t first = 3 * kPage;
  guard_.Protect(writable_, first, 2 * kLarge);
  EXPECT_TRUE(CanWrite(first - 1));
  EXPECT_FALSE(CanWrite(first));
  EXPECT_FALSE(CanWrite(first + kLarge));
  EXPECT_FALSE(CanWrite(first + 2 * kLarge - 1));
  EXPECT_TRUE(CanWrite(first + 2 * kLarge));
  EXPECT_EQ(writable_.data()[first + kLarge], 1) << "it can still be read";
}

TEST_F(WriteGuardTest, WhatIsWrittenAfterUnprotectIsSeenByReaders) {
  for (char round = 2; round < 6; ++round) {
    guard_.Protect(writable_, kPage, kLarge);
    ASSERT_FALSE(CanWrite(kPage));
    ASSERT_TRUE(guard_.Unprotect(writable_, kPage, kLarge).ok());
    memset(writable_.data() + kPage, round, kLarge);
    EXPECT_EQ(readable_.data()[kPage], round);
    EXPECT_EQ(readable_.data()[kLarge], round);
  }
}

TEST_F(WriteGuardTest, PartOfABlockIsGivenBackAlone) {
  guard_.Protect(writable_, 0, 4 * kLarge);
  ASSERT_TRUE(guard_.Unprotect(writable_, kLarge, kLarge).ok());
  EXPECT_FALSE(CanWrite(kLarge - 1));
  EXPECT_TRUE(CanWrite(kLarge));
  EXPECT_TRUE(CanWrite(2 * kLarge - 1));
  EXPECT_FALSE(CanWrite(2 * kLarge));
  ASSERT_TRUE(guard_.Unprotect(writable_, 0, 4 * kLarge).ok());
  memset(writable_.data(), 7, 4 * kLarge);
  EXPECT_EQ(memcmp(writable_.data(), readable_.data(), kBytes), 0);
}

TEST_F(WriteGuardTest, OneBlockOverTwoOldOnes) {
  guard_.Protect(writable_, 0, kLarge);
  guard_.Protect(writable_, kLarge, kLarge + kPage);
  ASSERT_TRUE(guard_.Unprotect(writable_, kLarge / 2, kLarge).ok());
  EXPECT_FALSE(CanWrite(0));
  EXPECT_TRUE(CanWrite(kLarge - 1));
  EXPECT_TRUE(CanWrite(kLarge));
  EXPECT_FALSE(CanWrite(2 * kLarge));
  guard_.Protect(writable_, kLarge / 2, kLarge);  // and it can be taken away as a whole again
  EXPECT_FALSE(CanWrite(kLarge - 1));
}

TEST_F(WriteGuardTest, SmallBlock) {
  guard_.Protect(writable_, kPage, kPage);
  EXPECT_TRUE(CanWrite(0));
  EXPECT_FALSE(CanWrite(kPage));
  EXPECT_TRUE(CanWrite(2 * kPage));
  ASSERT_TRUE(guard_.Unprotect(writable_, kPage, kPage).ok());
  EXPECT_TRUE(CanWrite(kPage));
}

TEST_F(WriteGuardTest, MovedEntriesAreStillThere) {
  guard_.Protect(writable_, 0, kLarge);
  ASSERT_TRUE(guard_.Unprotect(writable_, 0, kLarge).ok());
  // mincore() tells pages of the file; pagemap tells this mapping's own entries.
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(pagemap, 0);
  uint64_t entry = 0;
  const auto page = reinterpret_cast<uintptr_t>(writable_.data() + kLarge / 2) / kPage;
  ASSERT_EQ(pread(pagemap, &entry, sizeof(entry), static_cast<off_t>(page * sizeof(entry))), 8);
  close(pagemap);
  EXPECT_NE(entry >> 63, 0u) << "moving them away and back lost the entries: refilling faults";
}

}  // namespace
}  // namespace penstock::client
