#include "transport/segment/populate.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "tests/unit/transport/in_child.h"
#include "transport/segment/mapping.h"

namespace penstock {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

Mapping MakeShared(uint64_t size) {
  auto memfd = CreateMemfd({.name = "populate_test", .size = size, .want = PageKind::kSmall});
  EXPECT_TRUE(memfd.ok());
  auto map = Mapping::MapWritable(memfd->fd(), size);
  EXPECT_TRUE(map.ok());
  return *std::move(map);
}

uint64_t ResidentPages(const Mapping& map) {
  std::vector<unsigned char> pages(map.size() / 4096);
  EXPECT_EQ(mincore(map.data(), map.size(), pages.data()), 0);
  uint64_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count;
}

TEST(PopulateChild, FillsSharedMemoryOfTheParent) {
  Mapping map = MakeShared(8 * kMiB);
  ASSERT_EQ(ResidentPages(map), 0u);
  const absl::Status status = PopulateInChild(map.data(), map.size());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(ResidentPages(map), map.size() / 4096);
}

TEST(PopulateChild, TellsProgressAndEndsThroughItsPidfd) {
  Mapping map = MakeShared(3 * kMiB);
  Mapping shared = MakeShared(4096);
  auto* progress = new (shared.data()) std::atomic<uint64_t>(0);
  auto child = PopulateChild::Start({.address = map.data(),
                                     .length = map.size(),
                                     .slice_bytes = kMiB,
                                     .nice = 5,
                                     .progress = progress});
  ASSERT_TRUE(child.ok()) << child.status();
  pollfd ended{child->pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 20000), 1);
  EXPECT_TRUE(child->Wait().ok());
  EXPECT_EQ(progress->load(), map.size());
  EXPECT_EQ(child->Wait().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(PopulateChild, WorksWhileOtherThreadsAllocate) {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop.load()) delete[] new char[100000];
  });
  for (int i = 0; i < 10; ++i) {
    Mapping map = MakeShared(kMiB);
    EXPECT_TRUE(PopulateInChild(map.data(), map.size()).ok());
  }
  stop = true;
  busy.join();
}

TEST(PopulateChild, KilledChildIsResourceExhausted) {
  Mapping map = MakeShared(512 * kMiB);
  auto child =
      PopulateChild::Start({.address = map.data(), .length = map.size(), .slice_bytes = 4096});
  ASSERT_TRUE(child.ok());
  kill(child->pid(), SIGKILL);
  EXPECT_EQ(child->Wait().code(), absl::StatusCode::kResourceExhausted);
}

TEST(PopulateChild, DestroyingItKillsAndReapsTheChild) {
  Mapping map = MakeShared(512 * kMiB);
  pid_t pid;
  {
    auto child =
        PopulateChild::Start({.address = map.data(), .length = map.size(), .slice_bytes = 4096});
    ASSERT_TRUE(child.ok());
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(PopulateChild, KeepsNoSocketOfItsParentOpen) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  Mapping map = MakeShared(512 * kMiB);
  Mapping shared = MakeShared(4096);
  auto* progress = new (shared.data()) std::atomic<uint64_t>(0);
  auto child = PopulateChild::Start(
      {.address = map.data(), .length = map.size(), .slice_bytes = 4096, .progress = progress});
  ASSERT_TRUE(child.ok());
  while (progress->load() == 0) std::this_thread::yield();  // it is past its preparations
  close(ends[0]);
  char byte;
  EXPECT_EQ(recv(ends[1], &byte, 1, 0), 0) << "end-of-file although the child lives";
  close(ends[1]);
}

TEST(PopulateChild, NamesWhatIsWrongWithTheRange) {
  EXPECT_EQ(PopulateInChild(nullptr, 4096).code(), absl::StatusCode::kInvalidArgument);
  Mapping map = MakeShared(2 * 4096);
  EXPECT_EQ(PopulateInChild(map.data(), 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PopulateInChild(map.data() + 1, 4096).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(map.DontFork().ok());
  EXPECT_EQ(PopulateInChild(map.data(), 4096).code(), absl::StatusCode::kResourceExhausted);
}

// A memory cgroup of this process's own, version 1 or 2; empty if none can be made here.
std::string MakeCgroup(uint64_t limit) {
  const std::string name = "/penstock_populate_test_" + std::to_string(getpid());
  for (const auto& [top, file] : {std::pair{"/sys/fs/cgroup/memory", "/memory.limit_in_bytes"},
                                  std::pair{"/sys/fs/cgroup", "/memory.max"}}) {
    const std::string directory = top + name;
    if (mkdir(directory.c_str(), 0755) != 0) continue;
    std::ofstream out(directory + file);
    out << limit << std::flush;
    if (out.good()) return directory;
    rmdir(directory.c_str());
  }
  return "";
}

TEST(PopulateChild, AtTheCgroupLimitTheChildDiesAndTheParentLives) {
  const std::string cgroup = MakeCgroup(48 * kMiB);
  if (cgroup.empty()) GTEST_SKIP() << "needs root and a writable memory cgroup";
  const int exit_status = InChild([&] {
    std::ofstream(cgroup + "/cgroup.procs") << getpid() << std::flush;
    Mapping map = MakeShared(96 * kMiB);
    const absl::Status status = PopulateInChild(map.data(), map.size());
    return status.code() == absl::StatusCode::kResourceExhausted ? 0 : 1;
  });
  EXPECT_EQ(exit_status, 0);
  EXPECT_EQ(rmdir(cgroup.c_str()), 0);
}

}  // namespace
}  // namespace penstock
