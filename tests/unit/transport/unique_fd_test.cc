#include "transport/unique_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

namespace penstock {
namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFd, ClosesWhenItsOwnerGoes) {
  int number;
  {
    UniqueFd fd(eventfd(0, EFD_CLOEXEC));
    number = fd.get();
    ASSERT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFd, MovesLeaveOneOwner) {
  UniqueFd a(eventfd(0, EFD_CLOEXEC));
  const int number = a.get();
  UniqueFd b(std::move(a));
  EXPECT_FALSE(a);
  UniqueFd c(eventfd(0, EFD_CLOEXEC));
  const int replaced = c.get();
  c = std::move(b);
  EXPECT_EQ(c.get(), number);
  EXPECT_TRUE(IsOpen(number));
  EXPECT_FALSE(IsOpen(replaced));
}

TEST(UniqueFd, ReleaseGivesUpWithoutClosing) {
  UniqueFd fd(eventfd(0, EFD_CLOEXEC));
  const int number = fd.release();
  EXPECT_FALSE(fd);
  EXPECT_TRUE(IsOpen(number));
  close(number);
}

TEST(UniqueFd, DupIsAnotherDescriptorAndCloseOnExec) {
  UniqueFd fd(eventfd(0, 0));
  UniqueFd copy = fd.Dup();
  ASSERT_TRUE(copy);
  EXPECT_NE(copy.get(), fd.get());
  EXPECT_EQ(fcntl(copy.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_FALSE(UniqueFd().Dup());
}

}  // namespace
}  // namespace penstock
