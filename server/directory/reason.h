// Why a node holds a tensor: who wanted it, and what spoke for that node. Packed into 24 bits, as entries keep it.
//
// Threading:  values
// Ownership:  none
// Errors:     none: what is not known is kUnknown
// Limits:     percents are those of the moment of the choice
#pragma once

#include <cstdint>
#include <string>

namespace penstock::server::directory {

enum class ReasonKind : uint8_t { kUnknown, kPut, kReplica, kRepair, kDrain, kMove, kCopy, kRebalance };

using Reason = uint32_t;  // PackReason
constexpr Reason kMostReason = 0xffffff;

struct ReasonParts {
  ReasonKind kind = ReasonKind::kUnknown;
  bool other_zone = false;  // than those that had it
  bool other_host = false;
  bool is_new = false;   // a member since a short time: it gets its share slowly
  bool suspect = false;  // a transfer to it failed a short time ago
  uint8_t free_percent = 0;
  uint8_t busy_percent = 0;
};

constexpr Reason PackReason(const ReasonParts& parts) {
  return static_cast<Reason>(parts.kind) | static_cast<Reason>(parts.other_zone) << 4 | static_cast<Reason>(parts.other_host) << 5 |
         static_cast<Reason>(parts.is_new) << 6 | static_cast<Reason>(parts.suspect) << 7 | static_cast<Reason>(parts.free_percent) << 8 |
         static_cast<Reason>(parts.busy_percent) << 16;
}

constexpr ReasonParts UnpackReason(Reason reason) {
  return {.kind = static_cast<ReasonKind>(reason & 15), .other_zone = (reason & 16) != 0, .other_host = (reason & 32) != 0,
          .is_new = (reason & 64) != 0, .suspect = (reason & 128) != 0,
          .free_percent = static_cast<uint8_t>(reason >> 8), .busy_percent = static_cast<uint8_t>(reason >> 16)};
}

// The same choice, made by somebody else.
constexpr Reason ReasonFor(ReasonKind kind, Reason choice) { return (choice & ~Reason{15}) | static_cast<Reason>(kind); }

// "replica: other host, 72 % free, 3 % busy".
std::string ReasonText(Reason reason);

}  // namespace penstock::server::directory
