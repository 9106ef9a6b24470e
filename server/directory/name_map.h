// A hash map by name that is asked with string views. Its order is random: never send messages in it (use a btree_map).
//
// Threading:  one thread
// Ownership:  owns names and values
// Errors:     none
// Limits:     absl::flat_hash_map's
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace penstock::server::directory {

struct NameHash {
  using is_transparent = void;
  size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
};

template <typename Value>
using NameMap = absl::flat_hash_map<std::string, Value, NameHash, std::equal_to<>>;

}  // namespace penstock::server::directory
