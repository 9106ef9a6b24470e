#include "client/files/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "client/files/safetensors_header.h"
#include "proto/strcat.h"
#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string FileWith(std::string_view json, std::string_view buffer = "") {
  return StrCat(LittleEndian(json.size(), 8), json, buffer);
}

std::string ParseError(const std::string& file) {
  return MessageOf(SafetensorsFile::Parse(BytesOf(file)).status());
}
std::string HeaderError(std::string_view json, std::string_view buffer = "") {
  return ParseError(FileWith(json, buffer));
}
// One tensor "t" with these three fields.
std::string EntryError(std::string_view dtype, std::string_view shape, std::string_view offsets,
                       size_t buffer_bytes) {
  return HeaderError(StrCat("{\"t\":{\"dtype\":", dtype, ",\"shape\":", shape,
                            ",\"data_offsets\":", offsets, "}}"),
                     std::string(buffer_bytes, 'x'));
}

TEST(Safetensors, GivesTensorsWhereTheyLie) {
  const std::string file = FileWith(R"({"b":{"dtype":"U8","shape":[2],"data_offsets":[8,10]},)"
                                    R"("a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                                    R"("__metadata__":{"format":"pt","x":"\u00fc"}}   )",
                                    "01234567ab");
  const auto parsed = SafetensorsFile::Parse(BytesOf(file));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->tensors().size(), 2u);
  const FileTensor& a = parsed->tensors()[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.shape, (Shape{1, 2}));
  EXPECT_EQ(TextOf(a.data), "01234567");
  EXPECT_EQ(TextOf(parsed->tensors()[1].data), "ab");
  EXPECT_EQ(static_cast<const void*>(parsed->tensors()[1].data.data()),
            file.data() + file.size() - 2);
  EXPECT_THAT(parsed->metadata(), ElementsAre(Pair("format", "pt"), Pair("x", "\xC3\xBC")));
}

TEST(Safetensors, EmptyAndScalarAndZeroSizedAreLegal) {
  EXPECT_EQ(HeaderError("{}"), "ok");
  EXPECT_EQ(HeaderError(R"({"__metadata__":{}})"), "ok");
  EXPECT_EQ(EntryError("\"F64\"", "[]", "[0,8]", 8), "ok");
  EXPECT_EQ(EntryError("\"F64\"", "[3,0]", "[0,0]", 0), "ok");
  EXPECT_EQ(HeaderError(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},)"
                        R"("b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                        "xy"),
            "ok");
}

TEST(Safetensors, EveryDTypeOfTheFormatIsRead) {
  for (const DTypeTraits& row : AllDTypes()) {
    if (row.safetensors.empty()) continue;
    const auto bytes = size_t{row.bits} * 8 / 8 / (row.dtype == DType::kF4E2M1X2 ? 2 : 1);
    const std::string file =
        FileWith(StrCat("{\"t\":{\"dtype\":\"", row.safetensors,
                        "\",\"shape\":[2,4],\"data_offsets\":[0,", bytes, "]}}"),
                 std::string(bytes, 'x'));
    const auto parsed = SafetensorsFile::Parse(BytesOf(file));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->tensors()[0].dtype, row.dtype);
  }
}

TEST(Safetensors, F4CountsValuesInTheFileAndPairsHere) {
  const std::string file =
      FileWith(R"({"t":{"dtype":"F4","shape":[3,4],"data_offsets":[0,6]}})", "abcdef");
  const auto parsed = SafetensorsFile::Parse(BytesOf(file));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors()[0].shape, (Shape{3, 2}));
  EXPECT_THAT(EntryError("\"F4\"", "[4,3]", "[0,6]", 6), HasSubstr("last dimension must be even"));
  EXPECT_THAT(EntryError("\"F4\"", "[]", "[0,0]", 0), HasSubstr("whole bytes"));
}

TEST(Safetensors, LengthsOutsideTheFileAreRefused) {
  EXPECT_THAT(ParseError(""), HasSubstr("has 0 bytes"));
  EXPECT_THAT(ParseError("1234567"), HasSubstr("has 7 bytes"));
  EXPECT_THAT(ParseError(StrCat(LittleEndian(3, 8), "{}")), HasSubstr("header length 3 is more"));
  EXPECT_THAT(ParseError(StrCat(LittleEndian(100'000'001, 8), "{}")), HasSubstr("above the limit"));
  EXPECT_THAT(ParseError(StrCat(LittleEndian(UINT64_MAX, 8), "{}")), HasSubstr("above the limit"));
  EXPECT_THAT(ParseError(LittleEndian(0, 8)), HasSubstr("does not begin with '{'"));
}

TEST(Safetensors, HeaderMustBeJsonAndNothingElse) {
  EXPECT_THAT(HeaderError("[]"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(HeaderError(" {}"), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(HeaderError("{"), HasSubstr("not JSON at its byte"));
  EXPECT_THAT(HeaderError("{}{}"), HasSubstr("not JSON"));
  EXPECT_THAT(HeaderError(std::string("{}\0x", 4)), HasSubstr("not JSON at its byte 3"));
  EXPECT_THAT(HeaderError("{\"\xFF\":{}}"), HasSubstr("not JSON"));
  EXPECT_THAT(HeaderError("{\"\\ud800\":{}}"), HasSubstr("not JSON"));
  EXPECT_THAT(HeaderError("{'a':{}}"), HasSubstr("not JSON"));
}

TEST(Safetensors, NothingMayComeTwice) {
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_THAT(HeaderError(StrCat("{\"a\":", entry, ",\"a\":", entry, "}"), "x"),
              HasSubstr("tensor \"a\": comes twice"));
  EXPECT_THAT(HeaderError(StrCat("{\"a\":", entry, ",\"\\u0061\":", entry, "}"), "x"),
              HasSubstr("comes twice"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":{"k":"1","k":"2"}})"),
              HasSubstr("key \"k\" comes twice"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":{},"__metadata__":{}})"), HasSubstr("comes twice"));
  EXPECT_THAT(
      HeaderError(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "x"),
      HasSubstr("\"dtype\" has text or comes twice"));
  EXPECT_THAT(
      HeaderError(R"({"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}})", "x"),
      HasSubstr("\"shape\""));
}

TEST(Safetensors, FieldsMustBeThereAndOfTheirType) {
  EXPECT_THAT(HeaderError(R"({"t":{"shape":[],"data_offsets":[0,0]}})"),
              HasSubstr("\"dtype\" is missing"));
  EXPECT_THAT(HeaderError(R"({"t":{"dtype":"U8","data_offsets":[0,0]}})"),
              HasSubstr("\"shape\" is missing"));
  EXPECT_THAT(HeaderError(R"({"t":{"dtype":"U8","shape":[0]}})"),
              HasSubstr("\"data_offsets\" is missing"));
  EXPECT_THAT(EntryError("7", "[]", "[0,1]", 1), HasSubstr("field \"dtype\" has a number"));
  EXPECT_THAT(EntryError("null", "[]", "[0,1]", 1), HasSubstr("field \"dtype\" has null"));
  EXPECT_THAT(EntryError("\"U8\"", "1", "[0,1]", 1), HasSubstr("field \"shape\" has a number"));
  EXPECT_THAT(EntryError("\"U8\"", "[\"1\"]", "[0,1]", 1), HasSubstr("field \"shape\" has text"));
  EXPECT_THAT(EntryError("\"U8\"", "[[1]]", "[0,1]", 1), HasSubstr("field \"shape\" has an array"));
  EXPECT_THAT(EntryError("\"U8\"", "{}", "[0,1]", 1), HasSubstr("an object where"));
  EXPECT_THAT(EntryError("\"U8\"", "[1],\"more\":true", "[0,1]", 1),
              HasSubstr("field \"more\" has true"));
  EXPECT_THAT(HeaderError(R"({"t":5})"),
              HasSubstr("tensor \"t\": a number found; it must be an object"));
  EXPECT_THAT(HeaderError(R"({"t":[]})"), HasSubstr("it must be an object"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":{"k":1}})"), HasSubstr("maps text to text"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":"x"})"), HasSubstr("maps text to text"));
  EXPECT_THAT(HeaderError(R"({"__metadata__":{"k":{}}})"), HasSubstr("an object where"));
}

TEST(Safetensors, NumbersMustBeCountsThatFit) {
  EXPECT_THAT(EntryError("\"U8\"", "[-1]", "[0,1]", 1), HasSubstr("the number -1"));
  EXPECT_THAT(EntryError("\"U8\"", "[1.0]", "[0,1]", 1), HasSubstr("the number 1.0"));
  EXPECT_THAT(EntryError("\"U8\"", "[1]", "[0,18446744073709551615]", 1),
              HasSubstr("the number 1844"));
  EXPECT_THAT(EntryError("\"U8\"", "[99999999999999999999]", "[0,1]", 1),
              HasSubstr("the number 9999"));
  EXPECT_THAT(EntryError("\"U8\"", "[1e999]", "[0,1]", 1), HasSubstr("not JSON"));
  EXPECT_THAT(EntryError("\"U8\"", "[4294967296,4294967296]", "[0,0]", 0),
              HasSubstr("has more than"));
  EXPECT_THAT(EntryError("\"U64\"", "[9223372036854775807]", "[0,0]", 0),
              HasSubstr("has more than"));
  EXPECT_THAT(EntryError("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]", 1),
              HasSubstr("rank 17"));
  EXPECT_EQ(EntryError("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]", 1), "ok");
  EXPECT_THAT(EntryError("\"U8\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]", 1),
              HasSubstr("above rank 16"));
}

TEST(Safetensors, DTypesAndNamesAreChecked) {
  EXPECT_THAT(EntryError("\"F128\"", "[1]", "[0,16]", 16), HasSubstr("\"F128\" is not one of"));
  EXPECT_THAT(EntryError("\"f32\"", "[1]", "[0,4]", 4), HasSubstr("\"f32\" is not one of"));
  const std::string entry = R"(:{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  EXPECT_THAT(HeaderError(StrCat("{\"\"", entry), "x"), HasSubstr("is empty"));
  EXPECT_THAT(HeaderError(StrCat("{\"../x\"", entry), "x"), HasSubstr("part \"..\""));
  EXPECT_THAT(HeaderError(StrCat("{\"a\\u0000b\"", entry), "x"), HasSubstr("control character"));
}

TEST(Safetensors, BufferMustBeCoveredExactlyOnce) {
  const auto two = [](std::string_view a, std::string_view b) {
    return HeaderError(StrCat("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":", a,
                              "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":", b, "}}"),
                       "xxxx");
  };
  EXPECT_EQ(two("[0,2]", "[2,4]"), "ok");
  EXPECT_EQ(two("[2,4]", "[0,2]"), "ok");
  EXPECT_THAT(two("[0,2]", "[1,3]"), HasSubstr("\"b\": data_offsets: begins at 1 and overlaps"));
  EXPECT_THAT(two("[0,2]", "[0,2]"), HasSubstr("overlaps"));
  EXPECT_THAT(two("[0,2]", "[3,5]"), HasSubstr("leaves a hole after 2"));
  EXPECT_THAT(two("[1,3]", "[3,5]"),
              HasSubstr("\"a\": data_offsets: begins at 1 and leaves a hole"));
  EXPECT_THAT(EntryError("\"U8\"", "[2]", "[0,2]", 3), HasSubstr("cover 2 bytes, the file has 3"));
  EXPECT_THAT(EntryError("\"U8\"", "[2]", "[0,2]", 1), HasSubstr("it is cut off"));
  EXPECT_THAT(EntryError("\"U8\"", "[2]", "[0,3]", 3),
              HasSubstr("holds 3 bytes; (2,) of u8 needs 2"));
  EXPECT_THAT(EntryError("\"U8\"", "[2]", "[2,0]", 2), HasSubstr("not a begin and an end"));
  EXPECT_THAT(EntryError("\"U8\"", "[2]", "[0]", 2), HasSubstr("not a begin and an end"));
  EXPECT_THAT(EntryError("\"U8\"", "[2]", "[0,1,2]", 2), HasSubstr("not a begin and an end"));
  EXPECT_THAT(HeaderError("{}", "x"), HasSubstr("cover 0 bytes, the file has 1"));
}

// Every single-byte change of a sound file is either refused or still describes the whole buffer.
TEST(Safetensors, AnyChangedByteIsRefusedOrSound) {
  const std::string sound =
      FileWith(R"({"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})", "01234567");
  ASSERT_EQ(ParseError(sound), "ok");
  for (size_t at = 0; at < sound.size() - 8; ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string file = sound;
      file[at] = static_cast<char>(value);
      const auto parsed = SafetensorsFile::Parse(BytesOf(file));
      if (!parsed.ok()) continue;
      ASSERT_EQ(parsed->tensors().size(), 1u);
      EXPECT_EQ(parsed->tensors()[0].data.size(), 8u);
    }
  }
  for (size_t size = 0; size < sound.size(); ++size) {
    EXPECT_NE(ParseError(sound.substr(0, size)), "ok") << size;
  }
}

TEST(Safetensors, OpenMapsTheFileAndNamesItInErrors) {
  const TempDir dir;
  Put(dir / "a.safetensors",
      FileWith(R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "xy"));
  auto opened = SafetensorsFile::Open(dir / "a.safetensors");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const SafetensorsFile moved = *std::move(opened);
  EXPECT_EQ(TextOf(moved.tensors()[0].data), "xy");

  Put(dir / "bad.safetensors", "short");
  EXPECT_THAT(MessageOf(SafetensorsFile::Open(dir / "bad.safetensors").status()),
              HasSubstr("bad.safetensors: safetensors: the file has 5 bytes"));
  EXPECT_EQ(SafetensorsFile::Open(dir / "none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(SafetensorsFile::Open(dir.path()).status()),
              HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_THAT(MessageOf(SafetensorsFile::Open(dir / "fifo").status()),
              HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace penstock
