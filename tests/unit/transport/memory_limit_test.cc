#include "transport/memory_limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace penstock {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

class MemoryLimitTest : public testing::Test {
 protected:
  MemoryLimitTest() {
    std::string name = testing::TempDir() + "penstock_limit_XXXXXX";
    root_ = mkdtemp(name.data());
    Write(
        "/proc/meminfo",
        "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   12582912 kB\n");  // 16, 12 GiB
  }
  ~MemoryLimitTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void WriteV2(const std::string& cgroup, const std::string& max, uint64_t current,
               uint64_t inactive_file = 0) {
    const std::string at = "/sys/fs/cgroup" + cgroup;
    Write(at + "/memory.max", max + "\n");
    Write(at + "/memory.current", std::to_string(current) + "\n");
    Write(at + "/memory.stat", "anon 5\ninactive_file " + std::to_string(inactive_file) + "\n");
  }
  void WriteV1(const std::string& cgroup, uint64_t limit, uint64_t usage, uint64_t cache = 0) {
    const std::string at = "/sys/fs/cgroup/memory" + cgroup;
    Write(at + "/memory.limit_in_bytes", std::to_string(limit) + "\n");
    Write(at + "/memory.usage_in_bytes", std::to_string(usage) + "\n");
    Write(at + "/memory.stat",
          "inactive_file 1\ntotal_inactive_file " + std::to_string(cache) + "\n");
  }
  void UseV2(const std::string& cgroup, const std::string& mount_root = "/") {
    Write("/proc/self/cgroup", "0::" + cgroup + "\n");
    Write("/proc/self/mountinfo", "22 1 0:20 / / rw - ext4 /dev/vda rw\n30 22 0:26 " + mount_root +
                                      " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n");
  }
  void UseV1(const std::string& cgroup, const std::string& mount_root = "/") {
    Write("/proc/self/cgroup", "5:cpu,cpuacct:/other\n4:memory:" + cgroup + "\n0::/unified\n");
    Write("/proc/self/mountinfo",
          "34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n35 31 0:32 " +
              mount_root + " /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n");
  }
  MemoryLimit Read() {
    auto limit = ReadMemoryLimit(root_);
    EXPECT_TRUE(limit.ok()) << limit.status();
    return limit.ok() ? *limit : MemoryLimit{};
  }

  std::string root_;
};

TEST_F(MemoryLimitTest, HostAloneWithoutCgroups) {
  const MemoryLimit limit = Read();
  EXPECT_EQ(limit.total, 16 * kGiB);
  EXPECT_EQ(limit.limit, 16 * kGiB);
  EXPECT_EQ(limit.usage, 4 * kGiB);
  EXPECT_EQ(limit.available, 12 * kGiB);
  EXPECT_EQ(limit.source, "host");
}

TEST_F(MemoryLimitTest, V2LimitWithoutDroppableCache) {
  UseV2("/pod/box");
  WriteV2("/pod/box", std::to_string(2 * kGiB), kGiB, kGiB / 4);
  const MemoryLimit limit = Read();
  EXPECT_EQ(limit.limit, 2 * kGiB);
  EXPECT_EQ(limit.usage, 3 * kGiB / 4);
  EXPECT_EQ(limit.available, 5 * kGiB / 4);
  EXPECT_EQ(limit.source, "/sys/fs/cgroup/pod/box");
}

TEST_F(MemoryLimitTest, V2ParentMayBeTighter) {
  UseV2("/pod/box");
  WriteV2("/pod/box", "max", kGiB);
  WriteV2("/pod", std::to_string(3 * kGiB), 2 * kGiB);
  const MemoryLimit limit = Read();
  EXPECT_EQ(limit.limit, 3 * kGiB);
  EXPECT_EQ(limit.available, kGiB);
  EXPECT_EQ(limit.source, "/sys/fs/cgroup/pod");
}

TEST_F(MemoryLimitTest, AvailableIsTheLeastOfAllLevels) {
  UseV2("/pod/box");
  WriteV2("/pod/box", std::to_string(2 * kGiB), 0);
  WriteV2("/pod", std::to_string(8 * kGiB), 8 * kGiB - 100);
  const MemoryLimit limit = Read();
  EXPECT_EQ(limit.limit, 2 * kGiB);
  EXPECT_EQ(limit.available, 100u);
}

TEST_F(MemoryLimitTest, V1WithUnlimitedChild) {
  UseV1("/a/b");
  WriteV1("", 9223372036854771712u, 5 * kGiB);
  WriteV1("/a", 4 * kGiB, 3 * kGiB, 2 * kGiB);
  WriteV1("/a/b", 9223372036854771712u, kGiB);
  const MemoryLimit limit = Read();
  EXPECT_EQ(limit.limit, 4 * kGiB);
  EXPECT_EQ(limit.usage, kGiB);
  EXPECT_EQ(limit.available, 3 * kGiB);
  EXPECT_EQ(limit.source, "/sys/fs/cgroup/memory/a");
}

TEST_F(MemoryLimitTest, ContainerSeesOnlyItsOwnDirectory) {
  UseV1("/docker/abc",
        "/docker/abc");  // cgroup v1 without a namespace: the mount shows /docker/abc
  WriteV1("", kGiB, 0);
  EXPECT_EQ(Read().limit, kGiB);
  UseV1("/docker/abc/inner", "/docker/abc");
  WriteV1("/inner", kGiB / 2, 0);
  EXPECT_EQ(Read().limit, kGiB / 2);
  UseV1("/docker/abcdef", "/docker/abc");  // a neighbour with a longer name
  EXPECT_EQ(Read().limit, kGiB);
}

TEST_F(MemoryLimitTest, PathsOutsideTheNamespaceMeanItsTop) {
  UseV2("/../../other");
  WriteV2("", std::to_string(kGiB), 0);
  EXPECT_EQ(Read().limit, kGiB);
}

TEST_F(MemoryLimitTest, UsageOverTheLimitLeavesNothing) {
  UseV2("/x");
  WriteV2("/x", std::to_string(kGiB), 2 * kGiB);
  EXPECT_EQ(Read().available, 0u);
}

TEST_F(MemoryLimitTest, DamagedFilesDoNotLimit) {
  UseV2("/x");
  Write("/sys/fs/cgroup/x/memory.max", "");
  Write("/sys/fs/cgroup/x/memory.current", "abc");
  EXPECT_EQ(Read().source, "host");
  Write("/proc/self/cgroup", "no colons\n:\n");
  Write("/proc/self/mountinfo", "short\n\n1 2 3 4 5 - cgroup2\n");
  EXPECT_EQ(Read().source, "host");
}

TEST_F(MemoryLimitTest, WithoutMeminfoItSaysSo) {
  Write("/proc/meminfo", "MemTotal: 1 kB\n");
  EXPECT_EQ(ReadMemoryLimit(root_).status().code(), absl::StatusCode::kUnavailable);
}

TEST(MemoryLimitHere, IsPlausible) {
  const auto limit = ReadMemoryLimit();
  ASSERT_TRUE(limit.ok()) << limit.status();
  EXPECT_GT(limit->total, uint64_t{64} << 20);
  EXPECT_LE(limit->limit, limit->total);
  EXPECT_LE(limit->available, limit->total);
  EXPECT_FALSE(limit->source.empty());
}

}  // namespace
}  // namespace penstock
