#include "server/penstockd/socket_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "transport/fd_socket/fd_socket.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

class SocketDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/penstock-dir-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    root_ = pattern;
    config_.socket_dir = root_ + "/deep/sockets";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  static mode_t ModeOf(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 0777;
  }

  std::string root_;
  NodeConfig config_;
};

TEST_F(SocketDirTest, MakesADirectoryForItsOwnerOnly) {
  const auto listener = ListenOnFdSocket(config_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(ModeOf(config_.socket_dir), 0700u);
  EXPECT_EQ(ModeOf(config_.FdSocketPath()), 0600u);
}

TEST_F(SocketDirTest, SocketModeOpensItToOthersWhateverTheUmask) {
  const mode_t before = umask(0077);
  config_.socket_mode = 0775;
  const auto listener = ListenOnFdSocket(config_);
  umask(before);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(ModeOf(config_.socket_dir), 0775u);
  EXPECT_EQ(ModeOf(config_.FdSocketPath()), 0664u);
}

TEST_F(SocketDirTest, SecondNodeIsRefusedAndToldWhoIsThere) {
  const auto listener = ListenOnFdSocket(config_);
  ASSERT_TRUE(listener.ok()) << listener.status();
  const auto second = ListenOnFdSocket(config_);
  ASSERT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("process " + std::to_string(getpid())));
  EXPECT_TRUE(Connect(config_.FdSocketPath()).ok()) << "the first one is untouched";
}

TEST_F(SocketDirTest, SocketOfADeadNodeIsReplaced) {
  auto dead = ListenOnFdSocket(config_);
  ASSERT_TRUE(dead.ok()) << dead.status();
  dead->reset();
  EXPECT_TRUE(ListenOnFdSocket(config_).ok());
}

TEST_F(SocketDirTest, RemovesItsSocketsAtTheEnd) {
  ASSERT_TRUE(ListenOnFdSocket(config_).ok());
  RemoveSockets(config_);
  EXPECT_FALSE(std::filesystem::exists(config_.FdSocketPath()));
}

TEST_F(SocketDirTest, DirectoryThatOthersMayWriteToIsRefusedUnlessAskedFor) {
  std::filesystem::create_directories(config_.socket_dir);
  ASSERT_EQ(chmod(config_.socket_dir.c_str(), 0777), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(ListenOnFdSocket(config_).status()));
  config_.socket_mode = 0777;
  EXPECT_TRUE(ListenOnFdSocket(config_).ok());
}

TEST_F(SocketDirTest, FileInThePlaceOfTheDirectoryIsRefused) {
  config_.socket_dir = root_ + "/file";
  fclose(fopen(config_.socket_dir.c_str(), "w"));
  EXPECT_TRUE(absl::IsInvalidArgument(ListenOnFdSocket(config_).status()));
}

TEST_F(SocketDirTest, PathsBecomeAbsoluteAndMustLeaveRoomForTheSockets) {
  EXPECT_EQ(*AbsoluteSocketDir("/a/./b/../c//"), "/a/c");
  EXPECT_EQ(*AbsoluteSocketDir("x"), std::filesystem::current_path().string() + "/x");
  const std::string longest = "/" + std::string(96, 'x');
  EXPECT_EQ(*AbsoluteSocketDir(longest), longest);
  EXPECT_TRUE(absl::IsInvalidArgument(AbsoluteSocketDir(longest + "x").status()));
  EXPECT_LE((longest + "/grpc.sock").size(), 107u);
}

}  // namespace
}  // namespace penstock::server
