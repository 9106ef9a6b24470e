// The node's uuid as text: 32 hexadecimal digits.
//
// Clients and operators compare it; the catalog header keeps the bytes.
//
// Threading:  any thread
// Ownership:  returns a copy
// Errors:     none
// Limits:     none
#pragma once

#include <string>

#include "proto/layout/catalog_layout.h"

namespace penstock::server {

inline std::string NodeUuidText(const layout::CatalogHeader& header) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (uint8_t byte : header.node_uuid) text += {kHex[byte >> 4], kHex[byte & 15]};
  return text;
}

}  // namespace penstock::server
