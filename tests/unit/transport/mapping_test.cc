#include "transport/segment/mapping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "tests/unit/transport/in_child.h"

namespace penstock {
namespace {

const uint64_t kPage = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));

Memfd MakeMemfd(uint64_t size) {
  auto memfd = CreateMemfd({.name = "mapping_test", .size = size, .want = PageKind::kSmall});
  EXPECT_TRUE(memfd.ok()) << memfd.status();
  return *std::move(memfd);
}

// Whether each page of the range is in memory, for whoever holds it.
std::vector<bool> Resident(const char* data, uint64_t size) {
  std::vector<unsigned char> pages(size / kPage);
  EXPECT_EQ(mincore(const_cast<char*>(data), size, pages.data()), 0);
  std::vector<bool> resident;
  for (const unsigned char page : pages) resident.push_back(page & 1);
  return resident;
}

bool IsMapped(const char* address) {
  unsigned char page;
  return mincore(const_cast<char*>(address), 1, &page) == 0;
}

TEST(Mapping, WritableAndReadOnlyShowTheSameBytes) {
  Memfd memfd = MakeMemfd(3 * kPage);
  auto writable = Mapping::MapWritable(memfd.fd(), memfd.size());
  auto readable = Mapping::MapReadOnly(memfd.fd(), memfd.size());
  ASSERT_TRUE(writable.ok() && readable.ok());
  std::memcpy(writable->data() + 2 * kPage, "tensor", 6);
  EXPECT_EQ(std::string(readable->data() + 2 * kPage, 6), "tensor");
  EXPECT_EQ(readable->size(), 3 * kPage);
}

TEST(Mapping, LargeOnesAreAlignedForHugePages) {
  for (const uint64_t size : {kHugePageBytes, kHugePageBytes + 4096, 5 * kHugePageBytes}) {
    Memfd memfd = MakeMemfd(size);
    for (int i = 0; i < 3; ++i) {
      auto map = Mapping::MapWritable(memfd.fd(), size, PageKind::kTransparentHuge);
      ASSERT_TRUE(map.ok());
      EXPECT_EQ(reinterpret_cast<uint64_t>(map->data()) % kHugePageBytes, 0u);
      map->data()[size - 1] = 1;
    }
  }
}

TEST(Mapping, UnmapsWhenItsOwnerGoesAndNotAfterRelease) {
  Memfd memfd = MakeMemfd(kPage);
  char* address;
  {
    auto map = Mapping::MapReadOnly(memfd.fd(), kPage);
    ASSERT_TRUE(map.ok());
    address = map->data();
    Mapping moved = *std::move(map);
    EXPECT_EQ(moved.data(), address);
    EXPECT_FALSE(*map);
    EXPECT_TRUE(IsMapped(address));
  }
  EXPECT_FALSE(IsMapped(address));
  {
    auto map = Mapping::MapReadOnly(memfd.fd(), kPage);
    ASSERT_TRUE(map.ok());
    address = map->Release();
  }
  EXPECT_TRUE(IsMapped(address));
  munmap(address, kPage);
}

TEST(Mapping, RefusesWhatCannotBeMapped) {
  EXPECT_EQ(Mapping::MapReadOnly(-1, kPage).status().code(), absl::StatusCode::kFailedPrecondition);
  Memfd memfd = MakeMemfd(kPage);
  EXPECT_EQ(Mapping::MapReadOnly(memfd.fd(), 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(SealFutureWrite(memfd.fd()).ok());
  EXPECT_EQ(Mapping::MapWritable(memfd.fd(), kPage).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST(Mapping, PopulatesExactlyTheRange) {
  Memfd memfd = MakeMemfd(8 * kPage);
  auto map = Mapping::MapWritable(memfd.fd(), memfd.size());
  ASSERT_TRUE(map.ok());
  ASSERT_TRUE(map->Populate(true, 2 * kPage + 5, kPage).ok());  // touches pages 2 and 3
  EXPECT_THAT(Resident(map->data(), 8 * kPage),
              testing::ElementsAre(false, false, true, true, false, false, false, false));
  EXPECT_TRUE(map->Populate(true, 8 * kPage, 0).ok());
}

TEST(Mapping, PopulateNamesARangeOutsideIt) {
  Memfd memfd = MakeMemfd(2 * kPage);
  auto map = Mapping::MapWritable(memfd.fd(), memfd.size());
  ASSERT_TRUE(map.ok());
  for (const auto& [offset, length] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, 2 * kPage + 1}, {2 * kPage + 1, 0}, {kPage, UINT64_MAX}, {UINT64_MAX, 2}}) {
    const absl::Status status = map->Populate(true, offset, length);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("outside the mapping"));
  }
}

TEST(Mapping, PopulateBeyondTheFileIsAnErrorAndNoSigbus) {
  Memfd memfd = MakeMemfd(kPage);
  auto map = Mapping::MapReadOnly(memfd.fd(), 4 * kPage);  // longer than the file
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(map->Populate(false, 0, 4 * kPage).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(map->Populate(false, 0, kPage).ok());
}

TEST(Mapping, DroppedPrivatePagesShowTheSegmentAgain) {
  Memfd memfd = MakeMemfd(4 * kPage);
  auto writable = Mapping::MapWritable(memfd.fd(), memfd.size());
  auto mine = Mapping::MapPrivate(memfd.fd(), memfd.size());
  ASSERT_TRUE(writable.ok() && mine.ok());
  std::memset(writable->data(), 1, 4 * kPage);
  std::memset(mine->data(), 2, 4 * kPage);
  ASSERT_TRUE(mine->DropPrivatePages(kPage - 1, 2 * kPage + 2).ok());  // pages 1 and 2 are whole
  EXPECT_EQ(mine->data()[kPage - 1], 2);
  EXPECT_EQ(mine->data()[kPage], 1);
  EXPECT_EQ(mine->data()[3 * kPage - 1], 1);
  EXPECT_EQ(mine->data()[3 * kPage], 2);
  ASSERT_TRUE(mine->DropPrivatePages(10, 20).ok());  // no whole page
  EXPECT_EQ(mine->data()[10], 2);
}

TEST(Mapping, DontForkKeepsItFromChildren) {
  Memfd memfd = MakeMemfd(kPage);
  auto map = Mapping::MapWritable(memfd.fd(), kPage);
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(InChild([&] { return IsMapped(map->data()) ? 1 : 0; }), 1);
  ASSERT_TRUE(map->DontFork().ok());
  EXPECT_EQ(InChild([&] { return IsMapped(map->data()) ? 1 : 0; }), 0);
}

TEST(Mapping, ProtectTurnsARangeReadOnlyAndBack) {
  Memfd memfd = MakeMemfd(3 * kPage);
  auto map = Mapping::MapWritable(memfd.fd(), memfd.size());
  ASSERT_TRUE(map.ok());
  ASSERT_TRUE(map->Protect(false, kPage, kPage).ok());
  map->data()[0] = 1;
  map->data()[2 * kPage] = 1;
  EXPECT_DEATH(*static_cast<volatile char*>(map->data() + kPage) = 1, "");
  ASSERT_TRUE(map->Protect(true).ok());
  map->data()[kPage] = 1;
  EXPECT_EQ(map->Protect(false, 1, kPage).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(map->Protect(false, kPage, 5).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace penstock
