#include "client/session/address.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "proto/strcat.h"

namespace penstock::client {
namespace {

bool IsHostAndPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || colon + 1 == text.size()) return false;
  uint64_t port = 0;
  for (const char c : text.substr(colon + 1)) {
    if (c < '0' || c > '9') return false;
    port = port * 10 + static_cast<uint64_t>(c - '0');
    if (port > 65535) return false;
  }
  return port > 0;
}

std::vector<Address> DefaultSocketDirs() {
  std::vector<Address> dirs = {{true, "/run/penstock"}};
  if (const char* runtime = getenv("XDG_RUNTIME_DIR"); runtime != nullptr && *runtime != '\0') {
    dirs.push_back({true, StrCat(runtime, "/penstock")});
  }
  dirs.push_back({true, StrCat("/tmp/penstock-", static_cast<uint64_t>(getuid()))});
  return dirs;
}

}  // namespace

absl::StatusOr<std::vector<Address>> ResolveAddresses(std::string_view text) {
  if (text.empty()) {
    const char* configured = getenv("PENSTOCK_ADDRESS");
    if (configured == nullptr || *configured == '\0') return DefaultSocketDirs();
    text = configured;
  }
  std::vector<Address> out;
  while (true) {
    const size_t comma = text.find(',');
    const std::string_view one = text.substr(0, comma);
    if (one.find('\0') != std::string_view::npos || one.empty()) {
      return absl::InvalidArgumentError(
          StrCat("connect: address \"", text,
                 "\" has an empty part; give a socket directory, host:port, or a comma list"));
    }
    if (one.find('/') != std::string_view::npos) {
      out.push_back({true, std::string(one)});
    } else if (IsHostAndPort(one)) {
      out.push_back({false, std::string(one)});
    } else {
      return absl::InvalidArgumentError(
          StrCat("connect: address \"", one,
                 "\" is neither a socket directory (it would have a '/') nor host:port"));
    }
    if (comma == std::string_view::npos) return out;
    text = text.substr(comma + 1);
  }
}

std::string ProgramName() { return program_invocation_short_name; }

}  // namespace penstock::client
