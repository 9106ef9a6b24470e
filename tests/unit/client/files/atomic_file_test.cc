#include "client/files/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

TEST(AtomicFile, AppearsAtCommitOnly) {
  const TempDir dir;
  auto file = AtomicFile::Create(dir / "x");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(file->Write("abc").ok());
  EXPECT_FALSE(std::filesystem::exists(dir / "x"));
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(Slurp(dir / "x"), "abc");
  EXPECT_EQ(file->size_bytes(), 3u);
  EXPECT_EQ(dir.count(), 1u);
}

TEST(AtomicFile, LeavesTheOldFileAndNothingElseWithoutCommit) {
  const TempDir dir;
  Put(dir / "x", "old");
  {
    auto file = AtomicFile::Create(dir / "x");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Write("new").ok());
  }
  EXPECT_EQ(Slurp(dir / "x"), "old");
  EXPECT_EQ(dir.count(), 1u);
}

TEST(AtomicFile, ReplacesTheTargetOfALinkAndNotTheLink) {
  const TempDir dir;
  Put(dir / "target", "old");
  std::filesystem::create_symlink(dir / "target", dir / "link");
  auto file = AtomicFile::Create(dir / "link");
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(file->Write("new").ok());
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(Slurp(dir / "target"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(dir / "link"));
}

TEST(AtomicFile, RefusesWhatIsNoRegularFile) {
  const TempDir dir;
  EXPECT_EQ(AtomicFile::Create(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(AtomicFile::Create(dir / "fifo").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(AtomicFile, NamesTheMissingDirectory) {
  const TempDir dir;
  const auto file = AtomicFile::Create(dir / "no/x");
  EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace penstock
