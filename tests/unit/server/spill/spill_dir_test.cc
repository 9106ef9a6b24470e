// Files of the spill directory: whole, or noticed.
#include "server/spill/spill_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace penstock::server {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class SpillDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/penstock-spill-XXXXXX";
    path_ = mkdtemp(path);
    Open();
  }
  void TearDown() override { fs::remove_all(path_); }
  void Open() { dir_ = SpillDir::Open(path_).value(); }

  static v1::TensorInfo Info(std::string_view name, uint64_t nbytes, uint64_t version = 1) {
    v1::TensorInfo info;
    info.set_name(std::string(name));
    info.set_dtype(1);
    info.add_shape(static_cast<int64_t>(nbytes));
    info.set_nbytes(nbytes);
    info.mutable_version()->set_number(version);
    return info;
  }
  static std::string Bytes(uint64_t nbytes, unsigned seed = 1) {
    std::string bytes(nbytes, '\0');
    for (char& byte : bytes) byte = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
    return bytes;
  }
  void Flip(uint64_t number, uint64_t offset) {
    std::fstream file(dir_->PathOf(number), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
  }
  absl::Status Read(uint64_t number, const v1::TensorInfo& info, std::string* to) {
    to->assign(info.nbytes(), '\0');
    return dir_->Read(number, info, to->data());
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::string path_;
  std::unique_ptr<SpillDir> dir_;
};

TEST_F(SpillDirTest, WhatIsWrittenIsRead) {
  for (const uint64_t nbytes : {uint64_t{1}, uint64_t{4096}, uint64_t{4} << 20, (uint64_t{9} << 20) + 13}) {
    const std::string bytes = Bytes(nbytes);
    const v1::TensorInfo info = Info("a/b", nbytes);
    ASSERT_TRUE(dir_->Write(nbytes, info, bytes.data()).ok());
    EXPECT_EQ(fs::file_size(dir_->PathOf(nbytes)), SpillDir::FileBytes(info));
    std::string back;
    ASSERT_TRUE(Read(nbytes, info, &back).ok());
    EXPECT_TRUE(back == bytes) << nbytes;
    dir_->Remove(nbytes);
  }
  EXPECT_EQ(dir_->used_bytes(), 0u);
  EXPECT_TRUE(Names().empty());
}

TEST_F(SpillDirTest, ANameIsNoPath) {
  const std::string bytes = Bytes(10);
  ASSERT_TRUE(dir_->Write(0x1f, Info("../../etc/x", 10), bytes.data()).ok());
  EXPECT_EQ(Names(), (std::vector<std::string>{"000000000000001f.tensor"}));
}

TEST_F(SpillDirTest, AnyFlippedBitIsNoticed) {
  const std::string bytes = Bytes(10000);
  const v1::TensorInfo info = Info("a", 10000);
  for (const uint64_t offset : {0, 9, 12, 20, 28, 36, 42, 61, 63, 64, 70, 4096, 9000, 14095}) {
    ASSERT_TRUE(dir_->Write(5, info, bytes.data()).ok());
    std::string back;
    ASSERT_TRUE(Read(5, info, &back).ok());
    Flip(5, offset);
    const absl::Status read = Read(5, info, &back);
    EXPECT_TRUE(absl::IsDataLoss(read)) << offset << ": " << read;
    EXPECT_THAT(std::string(read.message()), HasSubstr(dir_->PathOf(5)));
    dir_->Remove(5);
  }
}

TEST_F(SpillDirTest, AFileOfAnotherTensorOrVersionIsNotRead) {
  const std::string bytes = Bytes(100);
  ASSERT_TRUE(dir_->Write(1, Info("a", 100, 7), bytes.data()).ok());
  std::string back;
  EXPECT_TRUE(absl::IsDataLoss(Read(1, Info("b", 100, 7), &back)));
  EXPECT_TRUE(absl::IsDataLoss(Read(1, Info("a", 100, 8), &back)));
  EXPECT_TRUE(absl::IsDataLoss(Read(2, Info("a", 100, 7), &back)));
  fs::copy_file(dir_->PathOf(1), dir_->PathOf(2));
  EXPECT_TRUE(absl::IsDataLoss(Read(2, Info("a", 100, 7), &back)));  // its number is in its header
}

TEST_F(SpillDirTest, AScanFindsWhatIsWholeAndSetsTheRestAside) {
  const std::string bytes = Bytes(5000);
  for (uint64_t number = 1; number <= 4; ++number) ASSERT_TRUE(dir_->Write(number, Info("t" + std::to_string(number), 5000), bytes.data()).ok());
  fs::resize_file(dir_->PathOf(2), 5000);  // torn
  Flip(3, 70);
  std::ofstream(path_ + "/0000000000000009.tensor") << "of somebody else";
  std::ofstream(path_ + "/000000000000000a.writing") << "not finished";
  std::ofstream(path_ + "/notes.txt") << "not ours";
  Open();
  std::vector<SpillDir::File> files = dir_->Scan();
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].info.name(), "t1");
  EXPECT_EQ(files[1].info.name(), "t4");
  EXPECT_EQ(dir_->set_aside(), 3u);
  EXPECT_EQ(dir_->used_bytes(), files[0].bytes + files[1].bytes);
  EXPECT_EQ(Names(), (std::vector<std::string>{"0000000000000001.tensor", "0000000000000002.bad", "0000000000000003.bad", "0000000000000004.tensor",
                                               "0000000000000009.bad", "notes.txt"}));
}

TEST_F(SpillDirTest, BytesThatAreNotWhatTheirChecksumSaysAreNotWritten) {
  const std::string bytes = Bytes(100);
  v1::TensorInfo info = Info("a", 100);
  info.set_crc32c(1234);
  EXPECT_TRUE(absl::IsDataLoss(dir_->Write(1, info, bytes.data())));
  EXPECT_TRUE(Names().empty());
  EXPECT_EQ(dir_->used_bytes(), 0u);
}

TEST_F(SpillDirTest, AFullDiskIsAnErrorThatLeavesNothing) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string bytes = Bytes(500'000);
  const absl::Status written = dir_->Write(1, Info("a", 500'000), bytes.data());
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(written)) << written;
  EXPECT_TRUE(Names().empty());
  EXPECT_EQ(dir_->used_bytes(), 0u);
}

TEST_F(SpillDirTest, WhereNothingCanBeWrittenItDoesNotOpen) {
  std::ofstream(path_ + "/file") << "x";
  const absl::Status opened = SpillDir::Open(path_ + "/file").status();
  EXPECT_THAT(std::string(opened.message()), HasSubstr("--spill_dir"));
}

}  // namespace
}  // namespace penstock::server
