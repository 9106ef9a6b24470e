#include "client/files/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "client/files/safetensors.h"
#include "proto/strcat.h"
#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What safetensors 0.8.0 writes for the same tensors (save_file of b: u8 [3], a: f32 [1], c: f32 []
// with metadata {"format": "pt"}).
TEST(SafetensorsWriter, WritesTheOriginalsBytes) {
  const TempDir dir;
  const std::vector<FileTensor> tensors = {
      {"b", DType::kU8, Shape{3}, BytesOf("xyz")},
      {"a", DType::kF32, Shape{1}, BytesOf("1234")},
      {"c", DType::kF32, Shape{}, BytesOf("5678")},
  };
  ASSERT_TRUE(WriteSafetensors(dir / "x", tensors, {{"format", "pt"}}).ok());
  std::string json = R"({"__metadata__":{"format":"pt"},)"
                     R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                     R"("c":{"dtype":"F32","shape":[],"data_offsets":[4,8]},)"
                     R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(Slurp(dir / "x"), StrCat(LittleEndian(json.size(), 8), json, "12345678xyz"));
}

TEST(SafetensorsWriter, WhatItWritesIsReadBack) {
  const TempDir dir;
  const std::string bytes(96, 'q');
  std::vector<FileTensor> tensors;
  for (const DTypeTraits& row : AllDTypes()) {
    if (row.safetensors.empty()) continue;
    const Shape shape{2, 4};
    tensors.push_back({StrCat("t/", row.name), row.dtype, shape,
                       BytesOf(bytes).subspan(0, ByteSize(row.dtype, shape).value())});
  }
  tensors.push_back({"empty", DType::kF32, Shape{0, 3}, {}});
  tensors.push_back({"quo\"te\\ \xC3\xBC", DType::kI8, Shape{}, BytesOf("s")});
  const FileMetadata metadata{{"a\n", "\"\\\x01"}, {"\xC3\xBC", ""}};
  ASSERT_TRUE(WriteSafetensors(dir / "x", tensors, metadata).ok());
  const auto file = SafetensorsFile::Open(dir / "x");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata(), metadata);
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (const FileTensor& want : tensors) {
    bool found = false;
    for (const FileTensor& got : file->tensors()) {
      if (got.name != want.name) continue;
      found = true;
      EXPECT_EQ(got.dtype, want.dtype) << want.name;
      EXPECT_EQ(got.shape, want.shape) << want.name;
      EXPECT_EQ(TextOf(got.data), TextOf(want.data)) << want.name;
    }
    EXPECT_TRUE(found) << want.name;
  }
}

TEST(SafetensorsWriter, NoTensorsMakeASoundFile) {
  const TempDir dir;
  ASSERT_TRUE(WriteSafetensors(dir / "x", {}).ok());
  EXPECT_EQ(Slurp(dir / "x"), LittleEndian(8, 8) + "{}      ");
  EXPECT_TRUE(SafetensorsFile::Open(dir / "x").ok());
}

// What safetensors 0.8.0 writes with metadata={} and with metadata=None.
TEST(SafetensorsWriter, EmptyMetadataIsNotTheSameAsNone) {
  const std::vector<TensorSpec> specs = {{"a", DType::kU8, Shape{}}};
  const FileMetadata none;
  const auto with = PlanSafetensors(specs, &none);
  const auto without = PlanSafetensors(specs, nullptr);
  ASSERT_TRUE(with.ok() && without.ok());
  EXPECT_THAT(with->head.substr(8), HasSubstr(R"({"__metadata__":{},"a":{)"));
  EXPECT_THAT(without->head.substr(8), HasSubstr(R"({"a":{)"));
  const std::string file_with = StrCat(with->head, "x");
  const std::string file_without = StrCat(without->head, "x");
  const auto parsed_with = SafetensorsFile::Parse(BytesOf(file_with));
  const auto parsed_without = SafetensorsFile::Parse(BytesOf(file_without));
  ASSERT_TRUE(parsed_with.ok() && parsed_without.ok());
  EXPECT_TRUE(parsed_with->has_metadata());
  EXPECT_FALSE(parsed_without->has_metadata());
}

TEST(SafetensorsWriter, TakesTensorsInItsOrderAndInPieces) {
  const TempDir dir;
  const std::vector<TensorSpec> specs = {{"a", DType::kU8, Shape{2}}, {"b", DType::kI64, Shape{1}}};
  auto writer = SafetensorsWriter::Create(dir / "x", specs);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_THAT(writer->order(), ElementsAre(1, 0));
  ASSERT_TRUE(writer->Append(BytesOf("1234")).ok());
  EXPECT_THAT(MessageOf(writer->Finish()),
              HasSubstr("6 bytes of the tensors announced are missing"));
  ASSERT_TRUE(writer->Append(BytesOf("5678ab")).ok());
  EXPECT_THAT(MessageOf(writer->Append(BytesOf("c"))), HasSubstr("1 more bytes appended"));
  ASSERT_TRUE(writer->Finish().ok());
  const auto file = SafetensorsFile::Open(dir / "x");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(TextOf(file->tensors()[1].data), "ab");
}

TEST(SafetensorsWriter, LeavesNothingWhenGivenUp) {
  const TempDir dir;
  const std::vector<TensorSpec> specs = {{"a", DType::kU8, Shape{2}}};
  { ASSERT_TRUE(SafetensorsWriter::Create(dir / "x", specs).ok()); }
  EXPECT_EQ(dir.count(), 0u);
}

TEST(SafetensorsWriter, RefusesWhatTheFormatCannotHold) {
  const TempDir dir;
  const auto error = [&](std::vector<TensorSpec> specs, const FileMetadata& metadata = {}) {
    return MessageOf(SafetensorsWriter::Create(dir / "x", specs, metadata).status());
  };
  EXPECT_THAT(error({{"a", DType::kC128, Shape{1}}}), HasSubstr("c128 cannot be stored"));
  EXPECT_THAT(error({{"a", DType::kInvalid, Shape{1}}}), HasSubstr("invalid cannot be stored"));
  EXPECT_THAT(error({{"", DType::kU8, Shape{1}}}), HasSubstr("is empty"));
  EXPECT_THAT(error({{"__metadata__", DType::kU8, Shape{1}}}), HasSubstr("another meaning"));
  EXPECT_THAT(error({{"a", DType::kU8, Shape{1}}, {"a", DType::kF32, Shape{1}}}),
              HasSubstr("\"a\" comes twice"));
  EXPECT_THAT(error({{"a", DType::kF4E2M1X2, Shape{}}}), HasSubstr("rank 0"));
  EXPECT_THAT(error({{"a", DType::kF6E2M3, Shape{3}}}), HasSubstr("whole bytes"));
  EXPECT_THAT(error({}, {{"k", "\xFF"}}), HasSubstr("not valid UTF-8"));
  EXPECT_THAT(
      error({{"a", DType::kU64, Shape{kMaxElements}}, {"b", DType::kU64, Shape{kMaxElements}}}),
      HasSubstr("more than 2^63"));
  const FileTensor wrong{"a", DType::kU8, Shape{2}, BytesOf("x")};
  EXPECT_THAT(MessageOf(WriteSafetensors(dir / "x", {wrong})),
              HasSubstr("data has 1 bytes; its shape needs 2"));
  EXPECT_EQ(dir.count(), 0u);
}

}  // namespace
}  // namespace penstock
