#include "client/cli/put_flags.h"

#include "client/cli/returning.h"
#include "proto/strcat.h"

namespace penstock::cli {

absl::StatusOr<PutOptions> ReadPutOptions(const Args& args) {
  PutOptions options;
  if (args.Has("keep") && args.Has("cache")) {
    return absl::InvalidArgumentError("--keep and --cache exclude each other");
  }
  options.keep = !args.Has("cache");
  options.soft_pin = args.Has("soft-pin");
  if (options.soft_pin && options.keep) {
    return absl::InvalidArgumentError("--soft-pin needs --cache: what is kept is never evicted");
  }
  CLI_ASSIGN_OR_RETURN(options.ttl, args.Duration("ttl"));
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> version, args.Number("version"));
  if (version == uint64_t{0}) {
    return absl::InvalidArgumentError("--version: '0' is not allowed; versions begin at 1");
  }
  options.version = version.value_or(0);
  options.if_absent = args.Has("if-absent");
  CLI_ASSIGN_OR_RETURN(options.if_version, args.Number("if-version"));
  for (const std::string& item : args.All("metadata")) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(
          StrCat("--metadata: '", item, "' is not allowed; write KEY=VALUE"));
    }
    options.metadata[item.substr(0, equals)] = item.substr(equals + 1);
  }
  return options;
}

}  // namespace penstock::cli
