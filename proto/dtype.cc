#include <penstock/dtype.h>

#include <string>
#include <vector>

#include "proto/strcat.h"

namespace penstock {
namespace {

// In the order of their numbers; the static_assert below and the unit test hold it to that.
constexpr DTypeTraits kTable[] = {
    {DType::kInvalid, "invalid", "", "", "", "", {0, 0, 0}, 0, 0},
    {DType::kBool, "bool", "bool", "BOOL", "|b1", "?", {6, 8, 1}, 1, 8},
    {DType::kI8, "i8", "int8", "I8", "|i1", "b", {0, 8, 1}, 1, 8},
    {DType::kI16, "i16", "int16", "I16", "<i2", "h", {0, 16, 1}, 2, 16},
    {DType::kI32, "i32", "int32", "I32", "<i4", "i", {0, 32, 1}, 4, 32},
    {DType::kI64, "i64", "int64", "I64", "<i8", "q", {0, 64, 1}, 8, 64},
    {DType::kU8, "u8", "uint8", "U8", "|u1", "B", {1, 8, 1}, 1, 8},
    {DType::kU16, "u16", "uint16", "U16", "<u2", "H", {1, 16, 1}, 2, 16},
    {DType::kU32, "u32", "uint32", "U32", "<u4", "I", {1, 32, 1}, 4, 32},
    {DType::kU64, "u64", "uint64", "U64", "<u8", "Q", {1, 64, 1}, 8, 64},
    {DType::kF16, "f16", "float16", "F16", "<f2", "e", {2, 16, 1}, 2, 16},
    {DType::kBF16, "bf16", "bfloat16", "BF16", "|V2", "", {4, 16, 1}, 2, 16},
    {DType::kF32, "f32", "float32", "F32", "<f4", "f", {2, 32, 1}, 4, 32},
    {DType::kF64, "f64", "float64", "F64", "<f8", "d", {2, 64, 1}, 8, 64},
    {DType::kC64, "c64", "complex64", "C64", "<c8", "Zf", {5, 64, 1}, 8, 64},
    {DType::kC128, "c128", "complex128", "", "<c16", "Zd", {5, 128, 1}, 16, 128},
    {DType::kF8E4M3FN, "f8_e4m3fn", "float8_e4m3fn", "F8_E4M3", "|V1", "", {10, 8, 1}, 1, 8},
    {DType::kF8E5M2, "f8_e5m2", "float8_e5m2", "F8_E5M2", "|V1", "", {12, 8, 1}, 1, 8},
    {DType::kF8E4M3FNUZ,
     "f8_e4m3fnuz",
     "float8_e4m3fnuz",
     "F8_E4M3FNUZ",
     "|V1",
     "",
     {11, 8, 1},
     1,
     8},
    {DType::kF8E5M2FNUZ,
     "f8_e5m2fnuz",
     "float8_e5m2fnuz",
     "F8_E5M2FNUZ",
     "|V1",
     "",
     {13, 8, 1},
     1,
     8},
    {DType::kF8E8M0FNU, "f8_e8m0fnu", "float8_e8m0fnu", "F8_E8M0", "|V1", "", {14, 8, 1}, 1, 8},
    {DType::kF4E2M1X2, "f4_e2m1x2", "float4_e2m1fn_x2", "F4", "|V1", "", {17, 4, 2}, 1, 8},
    {DType::kF6E2M3, "f6_e2m3", "", "F6_E2M3", "", "", {15, 6, 1}, 0, 6},
    {DType::kF6E3M2, "f6_e3m2", "", "F6_E3M2", "", "", {16, 6, 1}, 0, 6},
};

constexpr bool TableIsInOrder() {
  for (size_t i = 0; i < std::size(kTable); ++i) {
    if (static_cast<size_t>(kTable[i].dtype) != i) return false;
  }
  return std::size(kTable) == static_cast<size_t>(kMaxDType) + 1;
}
static_assert(TableIsInOrder());

// "torch.float32" -> "float32", "<class 'numpy.float32'>" -> "float32".
std::string_view WithoutModule(std::string_view text) {
  constexpr std::string_view kClass = "<class '";
  if (text.substr(0, kClass.size()) == kClass && text.size() > kClass.size() + 2 &&
      text.substr(text.size() - 2) == "'>") {
    text = text.substr(kClass.size(), text.size() - kClass.size() - 2);
  }
  for (const std::string_view module :
       {"numpy.", "np.", "torch.", "ml_dtypes.", "jax.numpy.", "jnp.", "penstock."}) {
    if (text.substr(0, module.size()) == module) return text.substr(module.size());
  }
  return text;
}

bool IsTypestr(std::string_view text) {
  return text.size() >= 3 && (text[0] == '<' || text[0] == '=' || text[0] == '|' || text[0] == '>');
}

// `text` has one of the byte order signs in front.
absl::StatusOr<DType> ParseTypestr(std::string_view text) {
  for (const DTypeTraits& row : AllDTypes()) {
    if (row.typestr.empty() || row.typestr[1] == 'V') continue;  // "|V2" says nothing but a size
    if (row.typestr.substr(1) != text.substr(1)) continue;
    if (text[0] == '>' && row.item_bytes > 1) {
      return absl::InvalidArgumentError(StrCat("dtype: \"", text,
                                               "\" is big-endian; tensors are little-endian (",
                                               row.typestr, "): convert the array first"));
    }
    if (text[0] == '|' && row.item_bytes > 1) break;
    return row.dtype;
  }
  return absl::InvalidArgumentError(
      StrCat("dtype: type string \"", text, "\" is none of ours: ?iufc with a size, as in <f4"));
}

}  // namespace

const DTypeTraits& TraitsOf(DType dtype) {
  return kTable[IsValid(dtype) ? static_cast<size_t>(dtype) : 0];
}

absl::Span<const DTypeTraits> AllDTypes() { return absl::MakeConstSpan(kTable).subspan(1); }

std::string_view DTypeName(DType dtype) { return TraitsOf(dtype).name; }

size_t ItemSize(DType dtype) { return TraitsOf(dtype).item_bytes; }

int BitsPerElement(DType dtype) { return TraitsOf(dtype).bits; }

absl::StatusOr<DType> ParseDType(std::string_view text) {
  const std::string_view name = WithoutModule(text);
  if (!name.empty()) {
    for (const DTypeTraits& row : AllDTypes()) {
      if (name == row.name || name == row.long_name) return row.dtype;
    }
    if (IsTypestr(name)) return ParseTypestr(name);
  }
  std::vector<std::string_view> names;
  for (const DTypeTraits& row : AllDTypes()) names.push_back(row.name);
  return absl::InvalidArgumentError(
      StrCat("dtype: \"", text.substr(0, 64), "\" is not known; allowed: ", Join(names, " ")));
}

absl::StatusOr<DType> DTypeFromSafetensors(std::string_view name) {
  std::vector<std::string_view> names;
  for (const DTypeTraits& row : AllDTypes()) {
    if (row.safetensors.empty()) continue;
    if (row.safetensors == name) return row.dtype;
    names.push_back(row.safetensors);
  }
  return absl::InvalidArgumentError(
      StrCat("dtype: \"", name.substr(0, 64), "\" is not one of safetensors': ", Join(names, " ")));
}

absl::StatusOr<DType> DTypeFromDLPack(const DLPackType& type) {
  for (const DTypeTraits& row : AllDTypes()) {
    if (row.dlpack.code == type.code && row.dlpack.bits == type.bits &&
        row.dlpack.lanes == type.lanes) {
      return row.dtype;
    }
  }
  return absl::InvalidArgumentError(StrCat("dtype: DLPack type (code ", int{type.code}, ", bits ",
                                           int{type.bits}, ", lanes ", type.lanes,
                                           ") has no dtype here"));
}

}  // namespace penstock
