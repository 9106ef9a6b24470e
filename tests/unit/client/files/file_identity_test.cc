#include "client/files/file_identity.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/files/mapped_file.h"
#include "proto/strcat.h"
#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

using ::testing::HasSubstr;

std::string Of(const std::string& path) {
  const absl::StatusOr<std::string> identity = FileIdentity(path);
  EXPECT_TRUE(identity.ok()) << identity.status();
  return identity.value_or("");
}

void SetTime(const std::string& path, time_t seconds, long nanoseconds) {
  const timespec times[2] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

TEST(FileIdentity, NamesPathSizeTimeAndInode) {
  const TempDir dir;
  Put(dir / "x", "12345");
  SetTime(dir / "x", 1'700'000'000, 7);
  struct stat info {};
  ASSERT_EQ(stat((dir / "x").c_str(), &info), 0);
  EXPECT_EQ(Of(dir / "x"), StrCat(std::filesystem::canonical(dir / "x").string(), ":5:1700000000000000007:", info.st_ino));
}

TEST(FileIdentity, EveryChangeMakesAnother) {
  const TempDir dir;
  Put(dir / "x", "12345");
  SetTime(dir / "x", 1, 1);
  const std::string first = Of(dir / "x");
  EXPECT_EQ(Of(dir / "x"), first);
  SetTime(dir / "x", 1, 2);
  EXPECT_NE(Of(dir / "x"), first);
  Put(dir / "x", "1234");
  SetTime(dir / "x", 1, 1);
  EXPECT_NE(Of(dir / "x"), first);
  Put(dir / "new", "12345");
  SetTime(dir / "new", 1, 1);
  std::filesystem::rename(dir / "new", dir / "x");
  EXPECT_NE(Of(dir / "x"), first);
}

TEST(FileIdentity, LinksAreTheFileThatTheyNameAndHaveItsPath) {
  const TempDir dir;
  Put(dir / "x", "1");
  std::filesystem::create_symlink("x", dir / "link");
  EXPECT_EQ(Of(dir / "link"), Of(dir / "x"));
}

TEST(FileIdentity, IsTextWhateverThePathIs) {
  const TempDir dir;
  Put(dir / "\xC3\xBC", "1");
  EXPECT_THAT(Of(dir / "\xC3\xBC"), HasSubstr("/\xC3\xBC:1:"));
  Put(dir / "a\xFF", "1");
  EXPECT_THAT(Of(dir / "a\xFF"), HasSubstr("/a%FF:1:"));
}

TEST(FileIdentity, OfNoFileIsAnError) {
  const TempDir dir;
  EXPECT_TRUE(absl::IsNotFound(FileIdentity(dir / "none").status()));
}

TEST(FileIdentity, AMappedFileKeepsThatOfWhatItOpened) {
  const TempDir dir;
  Put(dir / "x", "12345");
  const auto file = MappedFile::Open(dir / "x");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string before = Of(dir / "x");
  Put(dir / "new", "other");
  std::filesystem::rename(dir / "new", dir / "x");
  EXPECT_EQ(file->identity(), before);
  EXPECT_NE(file->identity(), Of(dir / "x"));
}

}  // namespace
}  // namespace penstock
