#include "client/files/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "client/files/npy_header.h"
#include "proto/strcat.h"
#include "tests/unit/client/files/file_fixtures.h"

namespace penstock {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

std::string Npy(std::string_view dict, std::string_view data, int major = 1) {
  return StrCat("\x93NUMPY", static_cast<char>(major), '\0',
                LittleEndian(dict.size(), major == 1 ? 2 : 4), dict, data);
}
std::string ParseError(const std::string& file) {
  return MessageOf(NpyArray::Parse(BytesOf(file)).status());
}
std::string DictError(std::string_view dict) { return MessageOf(ParseNpyDict(dict).status()); }

TEST(Npy, ReadsEachVersionInPlace) {
  for (const int major : {1, 2, 3}) {
    const std::string file =
        Npy("{'descr': '<u2', 'fortran_order': False, 'shape': (1, 3), }  \n", "aabbcc", major);
    const auto array = NpyArray::Parse(BytesOf(file));
    ASSERT_TRUE(array.ok()) << array.status();
    EXPECT_EQ(array->dtype(), DType::kU16);
    EXPECT_EQ(array->shape(), (Shape{1, 3}));
    EXPECT_EQ(TextOf(array->data()), "aabbcc");
    EXPECT_EQ(static_cast<const void*>(array->data().data()), file.data() + file.size() - 6);
  }
}

TEST(Npy, ScalarsAndZeroSizedAreLegal) {
  EXPECT_EQ(ParseError(Npy("{'descr': '|b1', 'fortran_order': False, 'shape': ()}", "x")), "ok");
  EXPECT_EQ(ParseError(Npy("{'descr': '<f8', 'fortran_order': True, 'shape': (4, 0)}", "")), "ok");
}

// Flat index i in C order holds i; stored in Fortran order.
TEST(Npy, FortranOrderIsTurnedIntoCOrder) {
  for (const std::vector<int64_t>& dims : std::vector<std::vector<int64_t>>{
           {6}, {2, 3}, {70, 41}, {2, 3, 4}, {1, 5, 1, 2}, {3, 1, 2, 2, 2}}) {
    const Shape shape(dims);
    std::vector<uint32_t> want(static_cast<size_t>(shape.num_elements()));
    std::vector<uint32_t> fortran(want.size());
    for (size_t flat = 0; flat < want.size(); ++flat) {
      want[flat] = static_cast<uint32_t>(flat);
      size_t rest = flat;
      std::vector<size_t> index(dims.size());
      for (size_t i = dims.size(); i-- > 0;) {
        index[i] = rest % static_cast<size_t>(dims[i]);
        rest /= static_cast<size_t>(dims[i]);
      }
      size_t at = 0;
      for (size_t i = dims.size(); i-- > 0;) at = at * static_cast<size_t>(dims[i]) + index[i];
      fortran[at] = static_cast<uint32_t>(flat);
    }
    const std::string_view data(reinterpret_cast<const char*>(fortran.data()), fortran.size() * 4);
    const std::string file = Npy(
        StrCat("{'descr': '<u4', 'fortran_order': True, 'shape': ", shape.ToString(), "}"), data);
    const auto array = NpyArray::Parse(BytesOf(file));
    ASSERT_TRUE(array.ok()) << array.status();
    std::vector<uint32_t> got(want.size());
    ASSERT_EQ(array->data().size(), got.size() * 4);
    std::memcpy(got.data(), array->data().data(), got.size() * 4);
    EXPECT_THAT(got, ElementsAreArray(want)) << shape.ToString();
  }
}

TEST(Npy, FortranOrderOfEveryItemSize) {
  for (const auto& [descr, item] : std::vector<std::pair<std::string, size_t>>{
           {"|u1", 1}, {"<u2", 2}, {"<u4", 4}, {"<u8", 8}, {"<c16", 16}}) {
    std::string data;
    for (const char c : {'a', 'c', 'b', 'd'}) data += std::string(item, c);
    const auto file =
        Npy(StrCat("{'descr': '", descr, "', 'fortran_order': True, 'shape': (2, 2)}"), data);
    const auto array = NpyArray::Parse(BytesOf(file));
    ASSERT_TRUE(array.ok()) << array.status();
    std::string want;
    for (const char c : {'a', 'b', 'c', 'd'}) want += std::string(item, c);
    EXPECT_EQ(TextOf(array->data()), want);
  }
}

TEST(NpyDict, TakesTheFormsThatNumpyHasWritten) {
  EXPECT_EQ(DictError("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n"), "ok");
  EXPECT_EQ(DictError("{\"shape\":(2,),\"descr\":\"<f4\",\"fortran_order\":True}"), "ok");
  EXPECT_EQ(DictError("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L)}"), "ok");
  EXPECT_EQ(DictError("{'descr': '<f4', 'fortran_order': False, 'shape': ()}"), "ok");
}

TEST(NpyDict, RefusesTheRest) {
  const auto shape = [](std::string_view text) {
    return DictError(StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': ", text, "}"));
  };
  const auto descr = [](std::string_view text) {
    return DictError(StrCat("{'descr': ", text, ", 'fortran_order': False, 'shape': ()}"));
  };
  EXPECT_THAT(shape("(3)"), HasSubstr("(n) is a number"));
  EXPECT_THAT(shape("[3]"), HasSubstr("not a tuple"));
  EXPECT_THAT(shape("(-1,)"), HasSubstr("not a number from 0"));
  EXPECT_THAT(shape("(1 2)"), HasSubstr("without a comma"));
  EXPECT_THAT(shape("(1,,2)"), HasSubstr("not a number"));
  EXPECT_THAT(shape("(1.5,)"), HasSubstr("without a comma"));
  EXPECT_THAT(shape("(9223372036854775808,)"), HasSubstr("not a number from 0"));
  EXPECT_THAT(shape("(4294967296, 4294967296)"), HasSubstr("has more than"));
  EXPECT_THAT(shape("(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)"), HasSubstr("rank is above"));
  EXPECT_THAT(shape("(1, 2"), HasSubstr("shape"));
  EXPECT_THAT(descr("'>f4'"), HasSubstr("big-endian"));
  EXPECT_THAT(descr("'<V2'"), HasSubstr("use safetensors"));
  EXPECT_THAT(descr("'|O'"), HasSubstr("not a type string"));
  EXPECT_THAT(descr("'<U8'"), HasSubstr("none of ours"));
  EXPECT_THAT(descr("'f32'"), HasSubstr("not a type string"));
  EXPECT_THAT(descr("[('a', '<f4')]"), HasSubstr("structured"));
  EXPECT_THAT(DictError("{'descr': '<f4', 'fortran_order': False}"),
              HasSubstr("'shape' is missing"));
  EXPECT_THAT(DictError("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}"),
              HasSubstr("'descr' comes twice"));
  EXPECT_THAT(DictError("{'descr': '<f4', 'fortran_order': 0, 'shape': ()}"),
              HasSubstr("neither True"));
  EXPECT_THAT(DictError("{'x': 1}"), HasSubstr("'x' is unknown"));
  EXPECT_THAT(DictError("{'descr': '<f4' 'fortran_order': True, 'shape': ()}"),
              HasSubstr("not a dict literal"));
  EXPECT_THAT(DictError("{'descr': '<f4', 'fortran_order': True, 'shape': ()} x"),
              HasSubstr("text follows"));
  EXPECT_THAT(DictError(""), HasSubstr("not a dict"));
  EXPECT_THAT(DictError("{"), HasSubstr("not a dict literal"));
  EXPECT_THAT(DictError("{'descr"), HasSubstr("not a dict literal"));
}

TEST(Npy, SizesMustAgree) {
  const std::string dict = "{'descr': '<u2', 'fortran_order': False, 'shape': (3,)}";
  EXPECT_THAT(ParseError(Npy(dict, "aabbc")),
              HasSubstr("5 bytes follow the header; (3,) of u16 needs 6"));
  EXPECT_THAT(ParseError(Npy(dict, "aabbccd")), HasSubstr("7 bytes follow"));
  const std::string file = Npy(dict, "aabbcc");
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_NE(ParseError(file.substr(0, size)), "ok") << size;
  }
  EXPECT_THAT(ParseError(Npy(dict, "aabbcc", 4)), HasSubstr("version 4.0 is unknown"));
  std::string minor = file;
  minor[7] = 1;
  EXPECT_THAT(ParseError(minor), HasSubstr("version 1.1"));
  EXPECT_THAT(ParseError(StrCat("\x93NUMPY", '\2', '\0', LittleEndian(0xFFFFFFFF, 4), dict)),
              HasSubstr("above the limit"));
}

TEST(Npy, WritesAsNumpyDoes) {
  const auto header = FormatNpyHeader(DType::kF32, Shape{2, 3});
  ASSERT_TRUE(header.ok());
  std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  dict.resize(117, ' ');
  EXPECT_EQ(*header, StrCat("\x93NUMPY", '\1', '\0', LittleEndian(118, 2), dict, "\n"));
}

TEST(Npy, WhatItWritesIsReadBack) {
  const TempDir dir;
  const std::string bytes(16, 'x');
  for (const DTypeTraits& row : AllDTypes()) {
    const auto data = BytesOf(bytes).subspan(0, ByteSize(row.dtype, Shape{4}).value_or(1) / 4);
    const absl::Status status = WriteNpy(dir / "x.npy", row.dtype, Shape{1}, data);
    if (row.typestr.empty() || row.typestr[1] == 'V') {
      EXPECT_THAT(MessageOf(status), HasSubstr("use safetensors")) << row.name;
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    const auto array = NpyArray::Open(dir / "x.npy");
    ASSERT_TRUE(array.ok()) << array.status();
    EXPECT_EQ(array->dtype(), row.dtype);
    EXPECT_EQ(array->shape(), Shape{1});
    EXPECT_EQ(TextOf(array->data()), TextOf(data));
  }
  EXPECT_THAT(MessageOf(WriteNpy(dir / "y.npy", DType::kU8, Shape{2}, BytesOf("x"))),
              HasSubstr("its shape needs 2"));
}

}  // namespace
}  // namespace penstock
