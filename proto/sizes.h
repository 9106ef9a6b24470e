// Sizes and durations as people write them: "64MiB", "1.5GiB", "80%", "250ms".
//
// Flags, configuration and the command line read and print them here only.
//
// Threading:  any thread; no state.
// Ownership:  none.
// Errors:     INVALID_ARGUMENT with the text and the forms that are allowed.
// Limits:     sizes below 2^64; fractions are cut to whole bytes.
#ifndef PENSTOCK_PROTO_SIZES_H_
#define PENSTOCK_PROTO_SIZES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock {

// A number, maybe with a fraction, and B, KiB, MiB, GiB, TiB, PiB, the decimal kB, MB, GB, TB, or
// %; no unit means bytes. Case does not matter. "80%" is of `whole` and an error without it.
absl::StatusOr<uint64_t> ParseSize(std::string_view text,
                                   std::optional<uint64_t> whole = std::nullopt);

// The largest binary unit, two decimals at most: "512B", "64MiB", "1.46GiB". Rounded: for people.
std::string FormatSize(uint64_t bytes);

// "250ms", "5s", "10m", "2h", "1h30m": Go's form, a unit is required (but for 0). Not negative, not
// infinite.
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

}  // namespace penstock

#endif  // PENSTOCK_PROTO_SIZES_H_
