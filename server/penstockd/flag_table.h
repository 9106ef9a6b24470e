// FlagTable: what each flag of penstockd means: its values, its default, its help.
//
// Threading:  any thread; constant
// Ownership:  static tables
// Errors:     INVALID_ARGUMENT with what is allowed; the caller adds source, flag and value
// Limits:     the only list of flags: --help and --print_config are made from it
#ifndef PENSTOCK_SERVER_PENSTOCKD_FLAG_TABLE_H_
#define PENSTOCK_SERVER_PENSTOCKD_FLAG_TABLE_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/penstockd/config.h"

namespace penstock::server {

struct Flag {
  const char* name;     // "socket_dir"
  const char* values;   // what is allowed, for help and errors
  const char* meaning;  // with the default
  bool is_switch;       // --name alone means true
  absl::Status (*set)(std::string_view value, NodeConfig* config);
  std::string (*print)(const NodeConfig& config);
};

absl::Span<const Flag> AllFlags();
const Flag* FindFlag(std::string_view name);

std::string HelpText();

// Of labels (--cluster, --zone, --host_label): they stand in keys of etcd, and in tables.
inline constexpr size_t kMaxLabelLetters = 63;
constexpr bool IsLabelLetter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
}


}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_FLAG_TABLE_H_
