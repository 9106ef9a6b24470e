#include "client/snapshot/manifest.h"

#include <gtest/gtest.h>
#include <penstock/dtype.h>

#include <string>
#include <utility>
#include <vector>

namespace penstock::client {
namespace {

using v1::SnapshotManifest;
using Numbers = std::vector<int64_t>;

struct ShardOf {
  uint32_t rank;
  Numbers offset, extent;
};

SnapshotManifest Part(const std::string& key, const Numbers& shape, const std::vector<ShardOf>& shards, DType dtype = DType::kF32) {
  SnapshotManifest part;
  SnapshotManifest::Tensor* tensor = part.add_tensors();
  tensor->set_key(key);
  tensor->set_dtype(static_cast<uint32_t>(dtype));
  for (const int64_t dim : shape) tensor->add_shape(dim);
  for (const ShardOf& one : shards) {
    SnapshotManifest::Shard* shard = tensor->add_shards();
    shard->set_rank(one.rank);
    for (const int64_t number : one.offset) shard->add_offset(number);
    for (const int64_t number : one.extent) shard->add_extent(number);
  }
  return part;
}

absl::StatusOr<SnapshotManifest> Merge(std::vector<SnapshotManifest> parts) { return MergeParts(std::move(parts)); }

TEST(MergeParts, ShardsOfSeveralRanksMakeAWhole) {
  const auto whole = Merge({Part("w", {4, 3}, {{0, {0, 0}, {2, 3}}}), Part("w", {4, 3}, {{1, {2, 0}, {2, 3}}}), Part("b", {5}, {{2, {}, {}}})});
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ(whole->tensors_size(), 2);
  EXPECT_EQ(whole->tensors(0).shards_size(), 2);
  EXPECT_EQ(ShardBytes(*whole), 4u * (12 + 5));
}

TEST(MergeParts, WhatSeveralRanksHavePutAlikeCountsOnce) {
  const auto whole = Merge({Part("w", {4}, {{0, {}, {}}}), Part("w", {4}, {{1, {0}, {4}}})});
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->tensors(0).shards_size(), 1);
}

TEST(Manifest, TiedTensorsOfAStageCountOnce) {
  auto whole = Merge({Part("a", {4}, {{0, {}, {}}}), Part("b", {4}, {{0, {}, {}}})});
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(ShardBytes(*whole), 4u * 8);
  for (SnapshotManifest::Tensor& tensor : *whole->mutable_tensors()) tensor.mutable_shards(0)->set_stage("0a1b");
  EXPECT_EQ(ShardBytes(*whole), 4u * 4);
}

TEST(Manifest, AStageIsAnId) {
  SnapshotManifest part = Part("a", {4}, {{0, {}, {}}});
  part.mutable_tensors(0)->mutable_shards(0)->set_stage("../other");
  EXPECT_TRUE(absl::IsDataLoss(ReadManifest("m", part.SerializeAsString()).status()));
}

TEST(MergeParts, TheDocumentIsThatOfTheFirst) {
  SnapshotManifest first, second;
  first.set_document("first");
  second.set_document("second");
  EXPECT_EQ(Merge({first, second})->document(), "first");
}

TEST(MergeParts, TensorsWithoutElementsNeedNoShards) {
  const auto whole = Merge({Part("none", {0, 3}, {{0, {0, 0}, {0, 3}}}), Part("scalar", {}, {{0, {}, {}}})});
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->tensors(0).shards_size(), 0);
  EXPECT_EQ(whole->tensors(1).shards_size(), 1);
}

TEST(MergeParts, RefusesGapsOverlapsAndDisagreement) {
  const auto refused = [](std::vector<SnapshotManifest> parts, const char* text) {
    const auto merged = Merge(std::move(parts));
    EXPECT_TRUE(absl::IsInvalidArgument(merged.status())) << merged.status();
    EXPECT_NE(merged.status().message().find(text), std::string::npos) << merged.status();
    EXPECT_NE(merged.status().message().find("'w'"), std::string::npos) << merged.status();
  };
  refused({Part("w", {4}, {{0, {0}, {3}}})}, "3 of 4 elements");
  refused({Part("w", {4}, {{0, {0}, {3}}}), Part("w", {4}, {{1, {2}, {2}}})}, "overlap");
  refused({Part("w", {4}, {{0, {0}, {2}}}), Part("w", {5}, {{1, {2}, {2}}})}, "must agree");
  refused({Part("w", {4}, {{0, {0}, {2}}}), Part("w", {4}, {{1, {2}, {2}}}, DType::kI32)}, "must agree");
}

TEST(ReadManifest, TakesWhatWasWritten) {
  const std::string bytes = Part("w", {4}, {{0, {1}, {3}}}).SerializeAsString();
  const auto read = ReadManifest("name", bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(BoxOf(read->tensors(0).shards(0), ShapeOf(read->tensors(0))).ToString(), "1:4");
}

TEST(ReadManifest, TakesNothingOnTrust) {
  const auto lost = [](const std::string& bytes) {
    const auto read = ReadManifest("the name", bytes);
    EXPECT_TRUE(absl::IsDataLoss(read.status())) << read.status();
    EXPECT_NE(read.status().message().find("the name"), std::string::npos);
  };
  lost("no manifest");
  lost(Part("w", {-1}, {}).SerializeAsString());
  lost(Part("w", Numbers(17, 1), {}).SerializeAsString());
  lost(Part("w", {4}, {{0, {2}, {3}}}).SerializeAsString());             // beyond the end
  lost(Part("w", {4}, {{0, {-1}, {3}}}).SerializeAsString());
  lost(Part("w", {4}, {{0, {0, 0}, {1, 1}}}).SerializeAsString());       // of another rank
  lost(Part("w", {4}, {{0, {}, {3}}}).SerializeAsString());
  lost(Part("w", {4}, {}, static_cast<DType>(200)).SerializeAsString());
}

}  // namespace
}  // namespace penstock::client
