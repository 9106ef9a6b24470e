#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <penstock/dtype.h>

#include <set>
#include <string>

#include "proto/strcat.h"

namespace penstock {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// The wire format: a change here is a change of the layout version.
TEST(DType, NumbersAreTheWireFormat) {
  const char* names[] = {"bool",      "i8",      "i16",         "i32",         "i64",
                         "u8",        "u16",     "u32",         "u64",         "f16",
                         "bf16",      "f32",     "f64",         "c64",         "c128",
                         "f8_e4m3fn", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz", "f8_e8m0fnu",
                         "f4_e2m1x2", "f6_e2m3", "f6_e3m2"};
  ASSERT_EQ(std::size(names), AllDTypes().size());
  for (size_t i = 0; i < std::size(names); ++i) {
    EXPECT_EQ(DTypeName(static_cast<DType>(i + 1)), names[i]);
  }
}

TEST(DType, NumbersOutsideTheListAreInvalidAndHarmless) {
  for (const int number : {0, kMaxDType + 1, 255}) {
    const auto dtype = static_cast<DType>(number);
    EXPECT_FALSE(IsValid(dtype)) << number;
    EXPECT_EQ(DTypeName(dtype), "invalid");
    EXPECT_EQ(ItemSize(dtype), 0u);
  }
}

TEST(DType, EveryNameIsReadBack) {
  for (const DTypeTraits& row : AllDTypes()) {
    EXPECT_EQ(ParseDType(row.name).value(), row.dtype);
    if (!row.long_name.empty()) {
      EXPECT_EQ(ParseDType(row.long_name).value(), row.dtype);
      EXPECT_EQ(ParseDType(StrCat("torch.", row.long_name)).value(), row.dtype);
    }
    if (!row.safetensors.empty()) {
      EXPECT_EQ(DTypeFromSafetensors(row.safetensors).value(), row.dtype);
    }
    EXPECT_EQ(DTypeFromDLPack(row.dlpack).value(), row.dtype);
    EXPECT_EQ(row.dlpack.bits * row.dlpack.lanes, row.bits) << row.name;
    if (row.item_bytes != 0) {
      EXPECT_EQ(row.item_bytes * 8, row.bits) << row.name;
    }
  }
}

TEST(DType, NoWorldHasOneNameForTwoTypes) {
  std::set<std::string_view> names, long_names, safetensors, pep3118;
  for (const DTypeTraits& row : AllDTypes()) {
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
    EXPECT_TRUE(row.long_name.empty() || long_names.insert(row.long_name).second) << row.name;
    EXPECT_TRUE(row.safetensors.empty() || safetensors.insert(row.safetensors).second) << row.name;
    EXPECT_TRUE(row.pep3118.empty() || pep3118.insert(row.pep3118).second) << row.name;
  }
}

TEST(ParseDType, TakesWhatPythonPrints) {
  EXPECT_EQ(ParseDType("float32").value(), DType::kF32);
  EXPECT_EQ(ParseDType("np.float32").value(), DType::kF32);
  EXPECT_EQ(ParseDType("numpy.uint8").value(), DType::kU8);
  EXPECT_EQ(ParseDType("torch.bfloat16").value(), DType::kBF16);
  EXPECT_EQ(ParseDType("<class 'numpy.float32'>").value(), DType::kF32);
  EXPECT_EQ(ParseDType("torch.float4_e2m1fn_x2").value(), DType::kF4E2M1X2);
}

TEST(ParseDType, TakesTypeStringsOfThisByteOrder) {
  EXPECT_EQ(ParseDType("<f4").value(), DType::kF32);
  EXPECT_EQ(ParseDType("=f8").value(), DType::kF64);
  EXPECT_EQ(ParseDType("|b1").value(), DType::kBool);
  EXPECT_EQ(ParseDType(">u1").value(), DType::kU8);  // one byte has no order
  EXPECT_EQ(ParseDType("<c16").value(), DType::kC128);
}

TEST(ParseDType, RefusesBigEndianByName) {
  const auto dtype = ParseDType(">f4");
  EXPECT_EQ(dtype.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(dtype.status()), HasSubstr("big-endian"));
}

TEST(ParseDType, RefusesWhatIsAmbiguousOrUnknown) {
  // "|V2" is any two bytes; float4_e2m1fn of ml_dtypes is one value a byte, which we do not have.
  for (const char* text : {"", "|V2", "<V2", "|f4", "<U4", "float4_e2m1fn", "F32", "f128", "torch.",
                           "<", "object", "float32 "}) {
    EXPECT_EQ(ParseDType(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(Message(ParseDType("f128").status()),
              HasSubstr("\"f128\" is not known; allowed: bool"));
}

TEST(DTypeFromDLPack, RefusesVectors) {
  EXPECT_FALSE(DTypeFromDLPack({2, 32, 4}).ok());
  EXPECT_FALSE(DTypeFromDLPack({0, 4, 1}).ok());
}

}  // namespace
}  // namespace penstock
