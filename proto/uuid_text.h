// A node's uuid as text: 32 hexadecimal digits.
//
// Threading:  any thread
// Ownership:  returns a copy
// Errors:     UuidOf: INVALID_ARGUMENT
// Limits:     16 bytes, as the catalog header and the ring's answers have them
#ifndef PENSTOCK_PROTO_UUID_TEXT_H_
#define PENSTOCK_PROTO_UUID_TEXT_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace penstock {

using NodeUuid = std::array<uint8_t, 16>;  // all zero: none

inline std::string UuidText(std::string_view uuid) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (const char c : uuid) text += {kHex[static_cast<uint8_t>(c) >> 4], kHex[c & 15]};
  return text;
}
inline std::string UuidText(const uint8_t (&uuid)[16]) { return UuidText({reinterpret_cast<const char*>(uuid), 16}); }

// The 16 bytes of 32 hexadecimal digits; INVALID_ARGUMENT: they are not that.
inline absl::StatusOr<std::string> UuidOf(std::string_view text) {
  std::string uuid;
  for (size_t i = 0; i < text.size() && text.size() == 32; ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) break;
    if (i % 2 == 0) uuid += static_cast<char>(digit << 4);
    else uuid.back() = static_cast<char>(uuid.back() | digit);
    if (i == 31) return uuid;
  }
  return absl::InvalidArgumentError("node: '" + std::string(text) + "' is no node id; it takes 32 hexadecimal digits");
}

}  // namespace penstock

#endif  // PENSTOCK_PROTO_UUID_TEXT_H_
