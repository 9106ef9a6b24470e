#include "client/files/sharded_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "client/files/safetensors_writer.h"
#include "client/files/sharded_index.h"
#include "proto/strcat.h"
#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr char kIndex[] = "model.safetensors.index.json";

void PutShard(const std::string& path, const std::vector<std::string>& names) {
  std::vector<FileTensor> tensors;
  for (const std::string& name : names) {
    tensors.push_back({name, DType::kU8, Shape{static_cast<int64_t>(name.size())}, BytesOf(name)});
  }
  ASSERT_TRUE(WriteSafetensors(path, tensors, {{"format", "pt"}}).ok());
}

std::vector<std::string> NamesOf(const ShardedDirectory& checkpoint) {
  std::vector<std::string> names;
  for (const ShardTensor& t : checkpoint.tensors()) {
    names.push_back(StrCat(checkpoint.shards()[t.shard], ":", t.tensor->name));
    EXPECT_EQ(TextOf(t.tensor->data), t.tensor->name);
  }
  return names;
}

std::string OpenError(const TempDir& dir) {
  return MessageOf(ShardedDirectory::Open(dir.path()).status());
}

TEST(ShardedDirectory, IndexDecidesWhatCounts) {
  const TempDir dir;
  PutShard(dir / "a.safetensors", {"one", "tied"});
  PutShard(dir / "b.safetensors", {"tied", "two"});
  PutShard(dir / "consolidated.safetensors", {"one", "two", "tied"});
  Put(dir / kIndex, R"({"metadata":{"total_size":9,"x":[1,{"weight_map":2}]},"weight_map":)"
                    R"({"one":"a.safetensors","tied":"a.safetensors","two":"b.safetensors"}})");
  auto opened = ShardedDirectory::Open(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ShardedDirectory checkpoint = *std::move(opened);
  EXPECT_THAT(NamesOf(checkpoint),
              ElementsAre("a.safetensors:one", "a.safetensors:tied", "b.safetensors:two"));
  EXPECT_THAT(checkpoint.unlisted(), ElementsAre("b.safetensors: tied"));
  EXPECT_THAT(checkpoint.metadata(), ElementsAre(Pair("format", "pt")));
}

TEST(ShardedDirectory, WithoutIndexAllFilesCount) {
  const TempDir dir;
  PutShard(dir / "b.safetensors", {"two"});
  PutShard(dir / "a.safetensors", {"one"});
  Put(dir / "config.json", "{}");
  const auto checkpoint = ShardedDirectory::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(NamesOf(*checkpoint), ElementsAre("a.safetensors:one", "b.safetensors:two"));

  PutShard(dir / "c.safetensors", {"one"});
  EXPECT_THAT(OpenError(dir), HasSubstr("\"one\" is in both a.safetensors and c.safetensors"));
}

TEST(ShardedDirectory, FollowsTheLinksOfTheHubsCache) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "blobs");
  std::filesystem::create_directories(dir / "snapshot");
  PutShard(dir / "blobs/f00d", {"one"});
  std::filesystem::create_symlink("../blobs/f00d", dir / "snapshot/model.safetensors");
  const auto checkpoint = ShardedDirectory::Open(dir / "snapshot");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT(NamesOf(*checkpoint), ElementsAre("model.safetensors:one"));
}

TEST(ShardedDirectory, NamesWhatIsMissing) {
  const TempDir dir;
  EXPECT_EQ(ShardedDirectory::Open(dir / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(OpenError(dir), HasSubstr("holds no *.safetensors file"));
  Put(dir / kIndex, R"({"weight_map":{"one":"a.safetensors"}})");
  EXPECT_THAT(OpenError(dir), HasSubstr("a.safetensors: No such file"));
  PutShard(dir / "a.safetensors", {"other"});
  EXPECT_THAT(OpenError(dir), HasSubstr("\"one\" is not in a.safetensors"));
  Put(dir / "a.safetensors", "junk");
  EXPECT_THAT(OpenError(dir), HasSubstr("a.safetensors: safetensors: the file has 4 bytes"));
}

TEST(ShardedDirectory, SeveralIndexesNeedTheUsualOne) {
  const TempDir dir;
  PutShard(dir / "a.safetensors", {"one"});
  const std::string index = R"({"weight_map":{"one":"a.safetensors"}})";
  Put(dir / "diffusion.safetensors.index.json", index);
  EXPECT_EQ(OpenError(dir), "ok");
  Put(dir / "model.fp16.safetensors.index.json", index);
  EXPECT_THAT(OpenError(dir), HasSubstr("several indexes"));
  Put(dir / kIndex, index);
  EXPECT_EQ(OpenError(dir), "ok");
}

std::string IndexError(std::string_view json) {
  return MessageOf(ParseShardedIndex(json).status());
}

TEST(ShardedIndex, PathsMayNotLeaveTheDirectory) {
  for (const char* path : {"../a.safetensors", "/etc/passwd", "x/../../a", "", ".", "..", "a//b",
                           "a\\u0000b", "./a"}) {
    EXPECT_THAT(IndexError(StrCat("{\"weight_map\":{\"t\":\"", path, "\"}}")),
                HasSubstr("a path inside the directory"))
        << path;
  }
  EXPECT_EQ(IndexError(R"({"weight_map":{"t":"sub/a.safetensors"}})"), "ok");
}

TEST(ShardedIndex, MustBeAMapOfTextToText) {
  EXPECT_EQ(IndexError(R"({"weight_map":{}})"), "ok");
  EXPECT_THAT(IndexError(""), HasSubstr("not JSON"));
  EXPECT_THAT(IndexError("{}"), HasSubstr("has no weight_map"));
  EXPECT_THAT(IndexError("[]"), HasSubstr("not an object"));
  EXPECT_THAT(IndexError("7"), HasSubstr("has no weight_map"));
  EXPECT_THAT(IndexError(R"({"weight_map":[]})"), HasSubstr("weight_map is not an object"));
  EXPECT_THAT(IndexError(R"({"weight_map":"x"})"), HasSubstr("weight_map is not an object"));
  EXPECT_THAT(IndexError(R"({"weight_map":{"t":1}})"), HasSubstr("\"t\": not a file's name"));
  EXPECT_THAT(IndexError(R"({"weight_map":{"t":{}}})"), HasSubstr("\"t\": not a file's name"));
  EXPECT_THAT(IndexError(R"({"weight_map":{"t":["a"]}})"), HasSubstr("\"t\": not a file's name"));
  EXPECT_THAT(IndexError(R"({"weight_map":{"t":"a","t":"b"}})"), HasSubstr("\"t\" comes twice"));
  EXPECT_THAT(IndexError(R"({"weight_map":{},"weight_map":{}})"), HasSubstr("comes twice"));
  EXPECT_THAT(IndexError(R"({"x":{"weight_map":{"t":"a"}}})"), HasSubstr("has no weight_map"));
  EXPECT_THAT(IndexError(std::string("{\"weight_map\":{}}\0", 18)), HasSubstr("zero byte"));
}

}  // namespace
}  // namespace penstock
