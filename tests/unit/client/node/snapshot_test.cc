// Snapshots against a real node, from C++.
#include <gtest/gtest.h>
#include <penstock/snapshot.h>

#include <vector>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::NodeProcess;

class SnapshotTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<SnapshotWriter>> Open(const SnapshotOptions& options = {}) { return SnapshotWriter::Open(*client_, "ckpt", options); }
  static ConstTensorRef Ref(const std::vector<float>& values) {
    return {.data = values.data(), .dtype = DType::kF32, .shape = Shape({static_cast<int64_t>(values.size())}), .strides = {}};
  }
  uint64_t Write(float value, const SnapshotOptions& options = {}) {
    const std::vector<float> values(1000, value);
    auto writer = Open(options);
    EXPECT_TRUE(writer.ok()) << writer.status();
    const SnapshotWriter::Item item{.key = "w", .tensor = Ref(values), .box = std::nullopt, .whole = {}};
    EXPECT_TRUE((*writer)->PutMany({&item, 1}).ok());
    const auto info = (*writer)->Commit();
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->number : 0;
  }

  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
  Snapshots snapshots_{*client_, "ckpt"};
};

TEST_F(SnapshotTest, IsReadUnderTheNamesThatItsContentsTell) {
  EXPECT_EQ(Write(3), 1u);
  const auto contents = snapshots_.Read();
  ASSERT_TRUE(contents.ok()) << contents.status();
  ASSERT_EQ(contents->tensors.size(), 1u);
  EXPECT_EQ(contents->tensors[0].key, "w");
  const auto view = client_->Get(contents->tensors[0].shards[0].name);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ((*view->As<float>())[999], 3.0f);
}

TEST_F(SnapshotTest, AWriterThatIsDroppedLeavesNothing) {
  {
    auto writer = Open();
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::vector<float> values(10, 1);
    const SnapshotWriter::Item item{.key = "w", .tensor = Ref(values), .box = std::nullopt, .whole = {}};
    ASSERT_TRUE((*writer)->PutMany({&item, 1}).ok());
    EXPECT_TRUE(snapshots_.List()->empty());
  }
  EXPECT_TRUE(absl::IsNotFound(snapshots_.Find().status()));
  EXPECT_TRUE(client_->List(".penstock/")->items.empty());
}

TEST_F(SnapshotTest, KeepsTheLastAndThePinned) {
  for (int i = 1; i <= 3; ++i) Write(static_cast<float>(i));
  ASSERT_TRUE(snapshots_.Pin(1, true).ok());
  EXPECT_EQ(Write(4, {.number = {}, .keep_last = 1, .metadata = {}, .id = {}, .cancelled = {}}), 4u);
  std::vector<uint64_t> numbers;
  const auto left = snapshots_.List();
  ASSERT_TRUE(left.ok()) << left.status();
  for (const SnapshotInfo& info : *left) numbers.push_back(info.number);
  EXPECT_EQ(numbers, (std::vector<uint64_t>{1, 4}));
  EXPECT_TRUE(absl::IsNotFound(snapshots_.Remove(2)));
  EXPECT_TRUE(snapshots_.Remove(1).ok() && snapshots_.Remove(4).ok());
  EXPECT_TRUE(client_->List(".penstock/")->items.empty());
}

TEST_F(SnapshotTest, ANumberThatIsTakenIsRefused) {
  Write(1, {.number = 7, .metadata = {}, .id = {}, .cancelled = {}});
  EXPECT_TRUE(absl::IsAborted(Open({.number = 7, .metadata = {}, .id = {}, .cancelled = {}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Open({.number = 0, .metadata = {}, .id = {}, .cancelled = {}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SnapshotWriter::Open(*client_, "a//b").status()));
}

class SnapshotStageTest : public SnapshotTest {
 protected:
  // A snapshot of the stage's tensor of that number.
  absl::Status Name(std::string_view id, uint32_t number) {
    auto writer = Open();
    if (!writer.ok()) return writer.status();
    const SnapshotWriter::Item item{
        .key = "w", .tensor = Ref(values_), .staged = SnapshotWriter::Staged{.id = id, .number = number}, .box = std::nullopt, .whole = {}};
    if (absl::Status s = (*writer)->PutMany({&item, 1}); !s.ok()) return s;
    return (*writer)->Commit().status();
  }
  size_t Names() { return client_->List(".penstock/")->items.size(); }

  const std::vector<float> values_ = std::vector<float>(1000, 3);
  const std::vector<ConstTensorRef> refs_ = std::vector<ConstTensorRef>(2, Ref(values_));
};

TEST_F(SnapshotStageTest, WhatASnapshotNamesStaysAndGoesWithItTheRestGoesWithTheStage) {
  auto stage = SnapshotStage::Open(*client_);
  ASSERT_TRUE(stage.ok()) << stage.status();
  EXPECT_EQ(*(*stage)->PutMany(refs_), 0u);
  EXPECT_EQ(*(*stage)->PutMany(refs_), 2u);
  ASSERT_TRUE(Name((*stage)->id(), 2).ok());
  (*stage)->Drop();
  EXPECT_TRUE(absl::IsFailedPrecondition((*stage)->PutMany(refs_).status()));
  const auto contents = snapshots_.Read();
  ASSERT_TRUE(contents.ok()) << contents.status();
  EXPECT_EQ(contents->tensors[0].shards[0].name, (*stage)->Name(2));
  EXPECT_EQ((*client_->Get((*stage)->Name(2))->As<float>())[999], 3.0f);
  EXPECT_TRUE(absl::IsNotFound(client_->Get((*stage)->Name(1)).status()));
  ASSERT_TRUE(snapshots_.Remove(1).ok());
  EXPECT_EQ(Names(), 0u);
}

TEST_F(SnapshotStageTest, AnotherSessionNamesItWhileTheStageLives) {
  const std::unique_ptr<Client> trainer = node_.Connect();
  auto stage = SnapshotStage::Open(*trainer);
  ASSERT_TRUE((*stage)->PutMany(refs_).ok());
  ASSERT_TRUE(Name((*stage)->id(), 0).ok());
  EXPECT_TRUE(absl::IsAborted(Name((*stage)->id(), 0))) << "it belongs to the first";
  EXPECT_EQ(snapshots_.List()->size(), 1u);
  const std::string id = (*stage)->id();
  stage->reset();
  EXPECT_TRUE(absl::IsAborted(Name(id, 1))) << "it went with its stage";
  ASSERT_TRUE(snapshots_.Remove(1).ok());
  EXPECT_EQ(Names(), 0u);
}

TEST_F(SnapshotTest, CanBeCommittedOnce) {
  auto writer = Open();
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_TRUE(absl::IsFailedPrecondition((*writer)->Commit().status()));
  EXPECT_TRUE(absl::IsFailedPrecondition((*writer)->PutMany({})));
  EXPECT_EQ(snapshots_.List()->size(), 1u);
}

}  // namespace
}  // namespace penstock
