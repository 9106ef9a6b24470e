#include "proto/sizes.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

#include "absl/strings/string_view.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

struct Unit {
  std::string_view name;  // in small letters
  uint64_t bytes;
};

constexpr Unit kUnits[] = {
    {"", 1},
    {"b", 1},
    {"kib", uint64_t{1} << 10},
    {"mib", uint64_t{1} << 20},
    {"gib", uint64_t{1} << 30},
    {"tib", uint64_t{1} << 40},
    {"pib", uint64_t{1} << 50},
    {"kb", 1'000},
    {"mb", 1'000'000},
    {"gb", 1'000'000'000},
    {"tb", 1'000'000'000'000},
};

absl::Status BadSize(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(StrCat("size: \"", text.substr(0, 64), "\" ", why));
}

// A decimal number as numerator / denominator, so that "1.5GiB" is exact.
struct Decimal {
  uint64_t numerator = 0;
  uint64_t denominator = 1;
  size_t length = 0;  // characters read; 0 if there is no number
};

std::optional<Decimal> ReadDecimal(std::string_view text) {
  Decimal result;
  bool in_fraction = false;
  size_t digits = 0;
  for (; result.length < text.size(); ++result.length) {
    const char c = text[result.length];
    if (c == '.' && !in_fraction) {
      in_fraction = true;
      continue;
    }
    if (c < '0' || c > '9') break;
    ++digits;
    if (__builtin_mul_overflow(result.numerator, uint64_t{10}, &result.numerator) ||
        __builtin_add_overflow(result.numerator, static_cast<uint64_t>(c - '0'),
                               &result.numerator) ||
        (in_fraction &&
         __builtin_mul_overflow(result.denominator, uint64_t{10}, &result.denominator))) {
      return std::nullopt;
    }
  }
  if (digits == 0) result.length = 0;
  return result;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text, std::optional<uint64_t> whole) {
  const std::optional<Decimal> number = ReadDecimal(text);
  if (!number.has_value()) return BadSize(text, "has too many digits");
  if (number->length == 0) return BadSize(text, "is not a size; allowed: 4096, 64MiB, 1.5GiB, 80%");
  std::string unit(text.substr(number->length));
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<uint8_t>(c))); });
  while (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);

  using Wide = unsigned __int128;
  Wide scale = 0;
  Wide denominator = number->denominator;
  if (unit == "%") {
    if (!whole.has_value()) return BadSize(text, "is a part of nothing known here: give bytes");
    if (number->numerator > Wide{100} * number->denominator) return BadSize(text, "is above 100%");
    scale = *whole;
    denominator *= 100;
  } else {
    const auto* row = std::find_if(std::begin(kUnits), std::end(kUnits),
                                   [&](const Unit& u) { return u.name == unit; });
    if (row == std::end(kUnits)) {
      return BadSize(
          text, "has an unknown unit; allowed: B KiB MiB GiB TiB PiB, kB MB GB TB (of 1000), %");
    }
    scale = row->bytes;
  }
  const Wide bytes = scale * number->numerator / denominator;
  if (bytes > UINT64_MAX) return BadSize(text, "is above 2^64 bytes");
  return static_cast<uint64_t>(bytes);
}

std::string FormatSize(uint64_t bytes) {
  constexpr std::string_view kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  while (unit + 1 < std::size(kNames) && bytes >> (10 * (unit + 1)) != 0) ++unit;
  const uint64_t scale = uint64_t{1} << (10 * unit);
  if (bytes % scale == 0) return StrCat(bytes / scale, kNames[unit]);
  char number[32];
  std::snprintf(number, sizeof(number), "%.2f",
                static_cast<double>(bytes) / static_cast<double>(scale));
  return StrCat(number, kNames[unit]);
}

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(absl::string_view(text.data(), text.size()), &duration) ||
      duration < absl::ZeroDuration() || duration == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        StrCat("duration: \"", text.substr(0, 64),
               "\" is not a duration; allowed: 250ms, 5s, 10m, 2h, 1h30m"));
  }
  return duration;
}

}  // namespace penstock
