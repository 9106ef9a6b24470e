// ConfigSources: the three places where a flag's value may come from, read into one list.
//
// Threading:  any thread
// Ownership:  copies
// Errors:     INVALID_ARGUMENT naming source and flag (unknown flag, a value missing, a word that
// is
//             no flag); NOT_FOUND / INVALID_ARGUMENT for a flagfile that cannot be read
// Limits:     flagfiles of at most 1 MiB; a flagfile cannot name another one
#ifndef PENSTOCK_SERVER_PENSTOCKD_CONFIG_SOURCES_H_
#define PENSTOCK_SERVER_PENSTOCKD_CONFIG_SOURCES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/penstockd/config.h"

namespace penstock::server {

// One value of one flag of FlagTable.
struct Setting {
  std::string flag;
  std::string value;
  std::string source;  // "command line", "PENSTOCK_MEMORY", "/etc/penstock.flags:3"
};

struct CommandLine {
  std::vector<Setting> settings;
  std::string flagfile;  // empty if not given
  ConfigAction action = ConfigAction::kServe;
};

// "--flag=value", "--flag value", "--switch", "--noswitch"; '-' inside a name reads as '_'.
absl::StatusOr<CommandLine> ReadCommandLine(const std::vector<std::string>& arguments);

std::vector<Setting> ReadEnvironment(const Environment& environment);

absl::StatusOr<std::vector<Setting>> ReadFlagFile(const std::string& path);

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_CONFIG_SOURCES_H_
