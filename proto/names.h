// The rules for names, prefixes and metadata.
//
// Client and node check with the same code: the client for a quick answer, the node because it
// trusts nobody.
//
// Threading:  any thread; no state.
// Ownership:  looks only.
// Errors:     INVALID_ARGUMENT that names the field, the position and the rule; ValidateUserName
// also refuses
//             reserved names so.
// Limits:     one pass, no allocation when the answer is OK.
#ifndef PENSTOCK_PROTO_NAMES_H_
#define PENSTOCK_PROTO_NAMES_H_

#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace penstock {

inline constexpr size_t kMaxNameBytes = 512;
inline constexpr size_t kMaxMetadataBytes = 16 * 1024;  // keys and values together
inline constexpr std::string_view kReservedPrefix = ".penstock/";
// Names that sessions of several nodes begin at the same moment: all nodes give each the same home (proto/shards.proto).
inline constexpr std::string_view kOneHomeFolder = ".penstock/shards/";

// Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool IsValidUtf8(std::string_view text);

// A tensor's name: UTF-8, 1..512 bytes, parts separated by '/', no part empty, "." or "..", no
// control characters (C0, DEL, C1).
absl::Status ValidateName(std::string_view name);

// ValidateName, and not in the reserved part ".penstock/".
absl::Status ValidateUserName(std::string_view name);

// ValidateName, and in the reserved part.
absl::Status ValidateInternalName(std::string_view name);

// The beginning of names: any string that a valid name can start with; may be empty or end in '/'.
absl::Status ValidatePrefix(std::string_view prefix);

using MetadataItem = std::pair<std::string_view, std::string_view>;

// Keys and values are UTF-8, keys are not empty and differ, all together have at most
// kMaxMetadataBytes.
absl::Status ValidateMetadata(absl::Span<const MetadataItem> items);

// The same for any map of text to text.
template <class Map>
absl::Status ValidateMetadata(const Map& map) {
  std::vector<MetadataItem> items;
  items.reserve(map.size());
  for (const auto& [key, value] : map) items.emplace_back(key, value);
  return ValidateMetadata(absl::Span<const MetadataItem>(items));
}

}  // namespace penstock

#endif  // PENSTOCK_PROTO_NAMES_H_
