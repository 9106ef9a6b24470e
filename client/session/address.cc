#include "client/session/address.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/status/status.h"
#include "proto/strcat.h"
#include "proto/tenant_name.h"

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

absl::StatusOr<std::vector<Address>> ParseAddresses(std::string_view text) {
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

absl::Status ChooseTenant(std::string_view tenant, std::vector<Address>* addresses) {
  if (tenant.empty()) return absl::OkStatus();
  if (!IsTenantName(tenant)) {
    return absl::InvalidArgumentError(StrCat("tenant: \"", tenant, "\" is no name of one: a-z, 0-9 and -, at most ", kMaxTenantLetters));
  }
  for (Address& address : *addresses) {
    if (!address.is_socket_dir) {
      return absl::InvalidArgumentError(StrCat("tenant: \"", tenant, "\" goes with a socket directory; ", address.text,
                                               " is one node's address: give that of the tenant's node, without tenant"));
    }
    address.tenant = tenant;
    StrAppend(&address.text, address.text.ends_with('/') ? "" : "/", tenant);
  }
  return absl::OkStatus();
}

const char* Configured(const char* variable) {
  const char* value = getenv(variable);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

}  // namespace

absl::StatusOr<std::vector<Address>> ResolveAddresses(std::string_view text, std::string_view tenant) {
  absl::StatusOr<std::vector<Address>> out;
  if (!text.empty()) {
    out = ParseAddresses(text);
  } else {
    const char* configured = Configured("PENSTOCK_ADDRESS");
    out = configured != nullptr ? ParseAddresses(configured) : DefaultSocketDirs();
    if (const char* whose = Configured("PENSTOCK_TENANT"); whose != nullptr && tenant.empty()) tenant = whose;
  }
  if (out.ok()) {
    if (absl::Status s = ChooseTenant(tenant, &*out); !s.ok()) return s;
  }
  return out;
}

std::vector<std::string> TenantsIn(const std::string& socket_dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator at(socket_dir, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    std::error_code unknown;
    if (IsTenantName(name) && at->is_directory(unknown)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string ProgramName() { return program_invocation_short_name; }

}  // namespace penstock::client
