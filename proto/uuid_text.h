// A node's uuid as text: 32 hexadecimal digits.
//
// Threading:  any thread
// Ownership:  returns a copy
// Errors:     none
// Limits:     16 bytes, as the catalog header and the ring's answers have them
#ifndef PENSTOCK_PROTO_UUID_TEXT_H_
#define PENSTOCK_PROTO_UUID_TEXT_H_

#include <array>
#include <cstdint>
#include <string>

namespace penstock {

using NodeUuid = std::array<uint8_t, 16>;  // all zero: none

inline std::string UuidText(const uint8_t (&uuid)[16]) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (uint8_t byte : uuid) text += {kHex[byte >> 4], kHex[byte & 15]};
  return text;
}

}  // namespace penstock

#endif  // PENSTOCK_PROTO_UUID_TEXT_H_
