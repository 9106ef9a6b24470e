#include "client/cli/small_floats.h"

#include <cmath>
#include <limits>

namespace penstock::cli {
namespace {

enum class Specials {
  kIeee,  // all ones in the exponent: infinity, else NaN
  kFn,    // only all ones everywhere is NaN; no infinity
  kFnuz,  // only the pattern of -0 is NaN
  kNone,
};

struct Format {
  int exponent_bits;
  int mantissa_bits;
  int bias;
  Specials specials;
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return {5, 10, 15, Specials::kIeee};
    case DType::kBF16:
      return {8, 7, 127, Specials::kIeee};
    case DType::kF8E4M3FN:
      return {4, 3, 7, Specials::kFn};
    case DType::kF8E5M2:
      return {5, 2, 15, Specials::kIeee};
    case DType::kF8E4M3FNUZ:
      return {4, 3, 8, Specials::kFnuz};
    case DType::kF8E5M2FNUZ:
      return {5, 2, 16, Specials::kFnuz};
    default:
      return {2, 1, 1, Specials::kNone};  // f4_e2m1
  }
}

}  // namespace

double SmallFloatValue(DType dtype, uint32_t bits) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  if (dtype == DType::kF8E8M0FNU) {  // an exponent alone
    return (bits & 0xFF) == 0xFF ? kNan : std::ldexp(1.0, static_cast<int>(bits & 0xFF) - 127);
  }
  const Format format = FormatOf(dtype);
  const uint32_t mantissa = bits & ((1u << format.mantissa_bits) - 1);
  const uint32_t all_ones = (1u << format.exponent_bits) - 1;
  const uint32_t exponent = bits >> format.mantissa_bits & all_ones;
  const bool negative = (bits >> (format.mantissa_bits + format.exponent_bits) & 1) != 0;
  if (format.specials == Specials::kIeee && exponent == all_ones) {
    if (mantissa != 0) return kNan;
    return negative ? -std::numeric_limits<double>::infinity()
                    : std::numeric_limits<double>::infinity();
  }
  if (format.specials == Specials::kFn && exponent == all_ones &&
      mantissa == (1u << format.mantissa_bits) - 1) {
    return kNan;
  }
  if (format.specials == Specials::kFnuz && negative && exponent == 0 && mantissa == 0) return kNan;
  const int scale = (exponent == 0 ? 1 : static_cast<int>(exponent)) - format.bias;
  const uint32_t leading = exponent == 0 ? 0 : 1u << format.mantissa_bits;
  const double value =
      std::ldexp(static_cast<double>(leading | mantissa), scale - format.mantissa_bits);
  return negative ? -value : value;
}

}  // namespace penstock::cli
