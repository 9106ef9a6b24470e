#include "client/cli/element_text.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "client/cli/small_floats.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr int64_t kWholeElements = 60;
constexpr int64_t kEdge = 3;

template <class T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));  // blocks of small tensors are not aligned to much
  return value;
}

std::string FloatText(double value, bool single) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char text[64];
  const auto end = single ? std::to_chars(text, text + sizeof(text), static_cast<float>(value))
                          : std::to_chars(text, text + sizeof(text), value);
  return std::string(text, end.ptr);
}

bool IsInteger(DType dtype) { return dtype >= DType::kI8 && dtype <= DType::kU64; }
bool IsComplex(DType dtype) { return dtype == DType::kC64 || dtype == DType::kC128; }

Json IntegerJson(DType dtype, const std::byte* element) {
  switch (dtype) {
    case DType::kI8:
      return Load<int8_t>(element);
    case DType::kI16:
      return Load<int16_t>(element);
    case DType::kI32:
      return Load<int32_t>(element);
    case DType::kI64:
      return Load<int64_t>(element);
    case DType::kU8:
      return Load<uint8_t>(element);
    case DType::kU16:
      return Load<uint16_t>(element);
    case DType::kU32:
      return Load<uint32_t>(element);
    default:
      return Load<uint64_t>(element);
  }
}

// Of the types that have one value: neither complex nor packed.
double RealValue(DType dtype, const std::byte* element) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<double>(Load<float>(element));
    case DType::kF64:
      return Load<double>(element);
    case DType::kF16:
    case DType::kBF16:
      return SmallFloatValue(dtype, Load<uint16_t>(element));
    default:
      return SmallFloatValue(dtype, Load<uint8_t>(element));
  }
}

Json FloatJson(double value, bool single) {
  if (!std::isfinite(value)) return FloatText(value, single);
  // The shortest decimal of a float, not that of the double beside it.
  return single ? Json::parse(FloatText(value, true)) : Json(value);
}

struct Pair {
  double first;
  double second;
  bool single;
};

Pair PairValue(DType dtype, const std::byte* element) {
  if (dtype == DType::kC64) {
    return {static_cast<double>(Load<float>(element)),
            static_cast<double>(Load<float>(element + 4)), true};
  }
  if (dtype == DType::kC128) return {Load<double>(element), Load<double>(element + 8), false};
  const auto bits = Load<uint8_t>(element);
  return {SmallFloatValue(dtype, bits & 0xFu), SmallFloatValue(dtype, bits >> 4), true};
}

void AppendArray(DType dtype, const Shape& shape, absl::Span<const int64_t> strides,
                 const std::byte* data, int dimension, bool whole, std::string* out) {
  if (dimension == shape.rank()) {
    *out += ElementText(dtype, data);
    return;
  }
  const int64_t count = shape.dim(dimension);
  const bool innermost = dimension + 1 == shape.rank();
  const std::string separator =
      innermost ? ", " : StrCat(",\n", std::string(static_cast<size_t>(dimension) + 1, ' '));
  *out += '[';
  for (int64_t i = 0; i < count; ++i) {
    if (i > 0) *out += separator;
    if (!whole && count > 2 * kEdge && i == kEdge) {
      *out += "...";
      i = count - kEdge - 1;
      continue;
    }
    AppendArray(dtype, shape, strides, data + i * strides[static_cast<size_t>(dimension)],
                dimension + 1, whole, out);
  }
  *out += ']';
}

}  // namespace

std::string ElementText(DType dtype, const std::byte* element) {
  if (dtype == DType::kBool) return Load<uint8_t>(element) != 0 ? "true" : "false";
  if (IsInteger(dtype)) return IntegerJson(dtype, element).dump();
  if (IsComplex(dtype)) {
    const Pair pair = PairValue(dtype, element);
    const std::string imaginary = FloatText(pair.second, pair.single);
    return StrCat("(", FloatText(pair.first, pair.single), imaginary[0] == '-' ? "" : "+",
                  imaginary, "j)");
  }
  if (dtype == DType::kF4E2M1X2) {
    const Pair pair = PairValue(dtype, element);
    return StrCat(FloatText(pair.first, true), "|", FloatText(pair.second, true));
  }
  return FloatText(RealValue(dtype, element), dtype != DType::kF64);
}

Json ElementJson(DType dtype, const std::byte* element) {
  if (dtype == DType::kBool) return Load<uint8_t>(element) != 0;
  if (IsInteger(dtype)) return IntegerJson(dtype, element);
  if (IsComplex(dtype) || dtype == DType::kF4E2M1X2) {
    const Pair pair = PairValue(dtype, element);
    Json json = Json::array();
    json.push_back(FloatJson(pair.first, pair.single));
    json.push_back(FloatJson(pair.second, pair.single));
    return json;
  }
  return FloatJson(RealValue(dtype, element), dtype != DType::kF64);
}

std::string ArrayText(DType dtype, const Shape& shape, absl::Span<const int64_t> strides,
                      const std::byte* data) {
  std::string out;
  AppendArray(dtype, shape, strides, data, 0, shape.num_elements() <= kWholeElements, &out);
  return out;
}

}  // namespace penstock::cli
