// The metadata of a tensor as bytes: {u16 key size, u16 value size, key, value} after another, keys ascending.
//
// Used in catalog records and in CreateRequest; whoever reads bytes that another process wrote must use Decode, which
// checks every length.
//
// Threading:  pure functions
// Ownership:  results are copies
// Errors:     INVALID_ARGUMENT
// Limits:     16 KiB in all, checked by ValidateMetadata (names.h)
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/layout/catalog_layout.h"

namespace penstock::layout {

inline std::string EncodeMetadata(const std::map<std::string, std::string>& metadata) {
  std::string bytes;
  for (const auto& [key, value] : metadata) {
    const MetadataEntry entry{static_cast<uint16_t>(key.size()), static_cast<uint16_t>(value.size())};
    bytes.append(reinterpret_cast<const char*>(&entry), sizeof(entry)).append(key).append(value);
  }
  return bytes;
}

inline absl::StatusOr<std::map<std::string, std::string>> DecodeMetadata(std::string_view bytes) {
  std::map<std::string, std::string> metadata;
  while (!bytes.empty()) {
    MetadataEntry entry;
    if (bytes.size() < sizeof(entry)) return absl::InvalidArgumentError("metadata: cut off");
    std::memcpy(&entry, bytes.data(), sizeof(entry));
    bytes.remove_prefix(sizeof(entry));
    if (bytes.size() < size_t{entry.key_bytes} + entry.value_bytes) {
      return absl::InvalidArgumentError("metadata: cut off");
    }
    std::string key(bytes.substr(0, entry.key_bytes));
    if (!metadata.empty() && key <= metadata.rbegin()->first) {
      return absl::InvalidArgumentError("metadata: keys are not ascending");
    }
    metadata.emplace_hint(metadata.end(), std::move(key), bytes.substr(entry.key_bytes, entry.value_bytes));
    bytes.remove_prefix(size_t{entry.key_bytes} + entry.value_bytes);
  }
  return metadata;
}

}  // namespace penstock::layout
