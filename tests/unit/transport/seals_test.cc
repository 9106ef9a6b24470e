// Attacks a sealed segment with everything that a process with its descriptor can try (invariant
// 3).
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "tests/unit/transport/in_child.h"
#include "transport/segment/mapping.h"
#include "transport/segment/memfd.h"

namespace penstock {
namespace {

constexpr uint64_t kSize = 64 * 1024;

struct Segment {
  Memfd memfd;
  Mapping writable;
};

// Made in the order that DESIGN 3 prescribes, with every byte 0x5a.
Segment MakeSegment() {
  auto memfd = CreateMemfd({.name = "attacked", .size = kSize, .want = PageKind::kSmall});
  EXPECT_TRUE(memfd.ok()) << memfd.status();
  auto writable = Mapping::MapWritable(memfd->fd(), kSize);
  EXPECT_TRUE(writable.ok()) << writable.status();
  EXPECT_TRUE(SealFutureWrite(memfd->fd()).ok());
  std::memset(writable->data(), 0x5a, kSize);
  return {*std::move(memfd), *std::move(writable)};
}

using Attack = bool (*)(int fd);  // true if it got through

bool MapsShared(int fd, int protection) {
  return mmap(nullptr, kSize, protection, MAP_SHARED, fd, 0) != MAP_FAILED;
}

bool MakesReadMappingWritable(int fd) {
  void* view = mmap(nullptr, kSize, PROT_READ, MAP_SHARED, fd, 0);
  return view != MAP_FAILED && mprotect(view, kSize, PROT_READ | PROT_WRITE) == 0;
}

int Reopen(int fd, int flags) {
  return open(("/proc/self/fd/" + std::to_string(fd)).c_str(), flags | O_CLOEXEC);
}

bool MapsReopened(int fd) {
  const int again = Reopen(fd, O_RDWR);
  return again >= 0 && MapsShared(again, PROT_READ | PROT_WRITE);
}

bool WritesReopened(int fd) {
  const int again = Reopen(fd, O_RDWR);
  return again >= 0 && pwrite(again, "x", 1, 0) == 1;
}

bool TruncatesOnReopen(int fd) { return Reopen(fd, O_RDWR | O_TRUNC) >= 0; }

bool RemovesPages(int fd) {
  void* view = mmap(nullptr, kSize, PROT_READ, MAP_SHARED, fd, 0);
  return view != MAP_FAILED && madvise(view, 4096, MADV_REMOVE) == 0;
}

bool MakesMovedMappingWritable(int fd) {
  void* view = mmap(nullptr, kSize, PROT_READ, MAP_SHARED, fd, 0);
  void* copy = mremap(view, 0, kSize, MREMAP_MAYMOVE);  // old size 0: a second mapping
  return copy != MAP_FAILED && mprotect(copy, kSize, PROT_READ | PROT_WRITE) == 0;
}

bool WritesThroughProcMem(int fd) {
  void* view = mmap(nullptr, kSize, PROT_READ, MAP_SHARED, fd, 0);
  const int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
  return view != MAP_FAILED && mem >= 0 &&
         pwrite(mem, "x", 1, static_cast<off_t>(reinterpret_cast<uintptr_t>(view))) == 1;
}

struct NamedAttack {
  const char* name;
  Attack run;
};

const NamedAttack kAttacks[] = {
    {"mmap shared writable", [](int fd) { return MapsShared(fd, PROT_READ | PROT_WRITE); }},
    {"mmap shared write-only", [](int fd) { return MapsShared(fd, PROT_WRITE); }},
    {"mprotect of a read-only mapping", MakesReadMappingWritable},
    {"mremap of a read-only mapping, then mprotect", MakesMovedMappingWritable},
    {"mmap of the file reopened through /proc", MapsReopened},
    {"pwrite", [](int fd) { return pwrite(fd, "x", 1, 0) == 1; }},
    {"pwrite to the file reopened through /proc", WritesReopened},
    {"open O_TRUNC through /proc", TruncatesOnReopen},
    {"ftruncate to 0", [](int fd) { return ftruncate(fd, 0) == 0; }},
    {"ftruncate to more", [](int fd) { return ftruncate(fd, 2 * kSize) == 0; }},
    {"fallocate beyond the end", [](int fd) { return fallocate(fd, 0, kSize, kSize) == 0; }},
    {"punch a hole",
     [](int fd) {
       return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0;
     }},
    {"zero a range", [](int fd) { return fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096) == 0; }},
    {"MADV_REMOVE", RemovesPages},
    {"write through /proc/self/mem", WritesThroughProcMem},
};

void ExpectUntouched(const Segment& segment) {
  for (uint64_t i = 0; i < kSize; ++i) {
    ASSERT_EQ(segment.writable.data()[i], 0x5a) << "byte " << i << " changed";
  }
}

TEST(SealedSegment, ResistsItsOwnProcess) {
  for (const NamedAttack& attack : kAttacks) {
    SCOPED_TRACE(attack.name);
    Segment segment = MakeSegment();
    UniqueFd fd(fcntl(segment.memfd.fd(), F_DUPFD_CLOEXEC, 0));
    EXPECT_FALSE(attack.run(fd.get()));
    ExpectUntouched(segment);
  }
}

TEST(SealedSegment, ResistsAnotherProcess) {
  for (const NamedAttack& attack : kAttacks) {
    SCOPED_TRACE(attack.name);
    Segment segment = MakeSegment();
    ASSERT_TRUE(segment.writable.DontFork().ok());  // as clients: the descriptor, no mapping
    EXPECT_EQ(InChild([&] { return attack.run(segment.memfd.fd()) ? 1 : 0; }), 0);
    ExpectUntouched(segment);
  }
}

// The attacks are real: without the last seal, those that write do get through.
TEST(SealedSegment, AttacksSucceedBeforeTheLastSeal) {
  std::vector<std::string> succeeded;
  for (const NamedAttack& attack : kAttacks) {
    auto memfd = CreateMemfd({.name = "open", .size = kSize, .want = PageKind::kSmall});
    ASSERT_TRUE(memfd.ok());
    if (attack.run(memfd->fd())) succeeded.push_back(attack.name);
  }
  EXPECT_THAT(succeeded,
              testing::IsSupersetOf({"mmap shared writable", "mprotect of a read-only mapping",
                                     "mmap of the file reopened through /proc", "pwrite",
                                     "pwrite to the file reopened through /proc", "punch a hole"}));
}

TEST(SealedSegment, OlderWritableMappingStillWritesAndReadersSeeIt) {
  Segment segment = MakeSegment();
  auto reader = Mapping::MapReadOnly(segment.memfd.fd(), kSize);
  ASSERT_TRUE(reader.ok());
  segment.writable.data()[100] = 7;
  EXPECT_EQ(reader->data()[100], 7);
}

TEST(SealedSegment, WriteToAReadOnlyMappingIsAFault) {
  Segment segment = MakeSegment();
  auto reader = Mapping::MapReadOnly(segment.memfd.fd(), kSize);
  ASSERT_TRUE(reader.ok());
  EXPECT_DEATH(*const_cast<volatile char*>(reader->data()) = 1, "");
  ExpectUntouched(segment);
}

TEST(SealedSegment, PrivateMappingTakesWritesAndPassesNoneOn) {
  Segment segment = MakeSegment();
  auto mine = Mapping::MapPrivate(segment.memfd.fd(), kSize);
  ASSERT_TRUE(mine.ok()) << mine.status();
  std::memset(mine->data(), 1, kSize);
  ExpectUntouched(segment);
}

TEST(Seals, FullySealedOnlyAfterTheLastSeal) {
  auto memfd = CreateMemfd({.name = "seals", .size = kSize, .want = PageKind::kSmall});
  ASSERT_TRUE(memfd.ok());
  EXPECT_EQ(*GetSeals(memfd->fd()), F_SEAL_GROW | F_SEAL_SHRINK);
  EXPECT_FALSE(IsFullySealed(memfd->fd()));
  ASSERT_TRUE(SealFutureWrite(memfd->fd()).ok());
  EXPECT_TRUE(IsFullySealed(memfd->fd()));
}

TEST(Seals, OrdinaryFilesAreNotSealed) {
  UniqueFd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(IsFullySealed(file.get()));
  EXPECT_FALSE(GetSeals(file.get()).ok());
  EXPECT_FALSE(SealFutureWrite(-1).ok());
}

TEST(CreateMemfd, RoundsUpToPagesAndRefusesNonsense) {
  auto one = CreateMemfd({.name = "one", .size = 1, .want = PageKind::kTransparentHuge});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->size() % 4096, 0u);
  EXPECT_GT(one->size(), 0u);
  EXPECT_EQ(one->page_kind(), PageKind::kSmall);
  EXPECT_THAT(one->page_kind_reason(), testing::HasSubstr("below one huge page"));
  EXPECT_EQ(CreateMemfd({.name = "none", .size = 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateMemfd({.name = std::string(201, 'n'), .size = 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CreateMemfd, GivesWhatThereIsAndSaysWhy) {
  for (const PageKind want : {PageKind::kSmall, PageKind::kTransparentHuge, PageKind::kHugetlb}) {
    auto memfd = CreateMemfd({.name = "kind", .size = 2 * kHugePageBytes, .want = want});
    ASSERT_TRUE(memfd.ok()) << memfd.status();
    EXPECT_EQ(memfd->page_kind() == want, memfd->page_kind_reason().empty())
        << PageKindName(want) << " -> " << PageKindName(memfd->page_kind()) << " "
        << memfd->page_kind_reason();
    auto map = Mapping::MapWritable(memfd->fd(), memfd->size(), memfd->page_kind());
    ASSERT_TRUE(map.ok()) << map.status();
    EXPECT_TRUE(map->Populate(true, 0, map->size()).ok());
  }
}

TEST(CreateMemfd, OddSizeIsNoHugetlb) {
  auto memfd =
      CreateMemfd({.name = "odd", .size = kHugePageBytes + 4096, .want = PageKind::kHugetlb});
  ASSERT_TRUE(memfd.ok());
  EXPECT_NE(memfd->page_kind(), PageKind::kHugetlb);
  EXPECT_THAT(memfd->page_kind_reason(), testing::HasSubstr("not a multiple"));
}

class FakeSysfs {
 public:
  FakeSysfs() : root_(testing::TempDir() + "penstock_sysfs_" + std::to_string(getpid())) {}
  ~FakeSysfs() { std::filesystem::remove_all(root_); }
  const std::string& root() const { return root_; }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + "/kernel/mm/transparent_hugepage/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

 private:
  std::string root_;
};

TEST(ShmemHugePages, ReadsTheSettingBySizeBeforeTheGeneralOne) {
  FakeSysfs sysfs;
  EXPECT_THAT(WhyNoShmemHugePages(sysfs.root()), testing::HasSubstr("no transparent huge pages"));
  sysfs.Write("shmem_enabled", "always within_size [advise] never deny force\n");
  EXPECT_EQ(WhyNoShmemHugePages(sysfs.root()), "");
  sysfs.Write("hugepages-2048kB/shmem_enabled", "always inherit within_size advise [never]\n");
  EXPECT_THAT(WhyNoShmemHugePages(sysfs.root()), testing::HasSubstr("hugepages-2048kB"));
  sysfs.Write("hugepages-2048kB/shmem_enabled", "always [inherit] within_size advise never\n");
  EXPECT_EQ(WhyNoShmemHugePages(sysfs.root()), "");
  sysfs.Write("shmem_enabled", "always within_size advise [never] deny force\n");
  EXPECT_THAT(WhyNoShmemHugePages(sysfs.root()), testing::HasSubstr("is 'never'"));
}

}  // namespace
}  // namespace penstock
