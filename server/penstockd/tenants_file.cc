#include "server/penstockd/tenants_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

#include "proto/sizes.h"
#include "proto/strcat.h"
#include "proto/tenant_name.h"
#include "server/penstockd/config_sources.h"
#include "server/penstockd/flag_table.h"

namespace penstock::server {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxTenants = 256;

// Given by the supervisor, or of it.
constexpr const char* kNotInSections[] = {"socket_dir", "tenant", "tenants", "cluster", "exit_with_parent", "ready_fd"};

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

absl::Status Wrong(const std::string& where, const std::string& what) { return absl::InvalidArgumentError(StrCat(where, ": ", what)); }

absl::Status AddFlag(const std::string& where, std::string_view line, TenantSpec* tenant) {
  const absl::StatusOr<CommandLine> read = ReadCommandLine({std::string(line)});
  if (!read.ok()) return Wrong(where, std::string(read.status().message()));
  if (read->settings.size() != 1) return Wrong(where, StrCat("'", line, "' does not go into a tenant's section; write --flag=value"));
  const Setting& setting = read->settings[0];
  if (std::any_of(std::begin(kNotInSections), std::end(kNotInSections), [&](const char* name) { return setting.flag == name; })) {
    return Wrong(where, StrCat("flag --", setting.flag, " is given to each tenant by penstockd --tenants; take it out"));
  }
  const Flag* flag = FindFlag(setting.flag);
  NodeConfig unused;
  if (!flag->set(setting.value, &unused).ok()) {
    return Wrong(where, StrCat("flag --", setting.flag, " cannot be '", setting.value, "'; allowed: ", flag->values));
  }
  if (setting.flag == "memory") tenant->memory = setting.value;
  if (setting.flag == "socket_mode") tenant->has_mode = true;
  tenant->flags.push_back(StrCat("--", setting.flag, "=", setting.value));
  return absl::OkStatus();
}

absl::Status AddLine(const std::string& where, std::string_view line, TenantSpec* tenant) {
  if (line.starts_with("--")) return AddFlag(where, line, tenant);
  const size_t equals = line.find('=');
  const std::string_view key = Trim(line.substr(0, equals));
  const std::string_view value = equals == std::string_view::npos ? std::string_view() : Trim(line.substr(equals + 1));
  std::string* const target = key == "user" ? &tenant->user : key == "group" ? &tenant->group : nullptr;
  if (target == nullptr) return Wrong(where, StrCat("'", line, "' is not understood; write [tenant], user=NAME, group=NAME or --flag=value"));
  if (value.empty()) return Wrong(where, StrCat(key, " has no value; write ", key, "=NAME"));
  *target = std::string(value);
  return absl::OkStatus();
}

absl::StatusOr<std::string> SectionName(const std::string& where, std::string_view line) {
  if (line.back() != ']') return Wrong(where, StrCat("'", line, "' has no ]; write [tenant]"));
  const std::string_view name = Trim(line.substr(1, line.size() - 2));
  if (IsTenantName(name)) return std::string(name);
  return Wrong(where, StrCat("tenant '", name, "': a name has a-z, 0-9 and -, at most 63 of them, and neither begins nor ends with -"));
}

}  // namespace

absl::StatusOr<std::vector<TenantSpec>> ParseTenants(const std::string& text, const std::string& path) {
  std::vector<TenantSpec> tenants;
  std::vector<std::string> places;
  std::istringstream lines(text);
  std::string raw;
  for (int number = 1; std::getline(lines, raw); ++number) {
    const std::string where = StrCat(path, ":", number);
    std::string_view line = Trim(raw);
    if (const size_t comment = line.find(" #"); comment != std::string_view::npos) line = Trim(line.substr(0, comment));
    if (line.empty() || line.front() == '#') continue;
    if (line.front() == '[') {
      absl::StatusOr<std::string> name = SectionName(where, line);
      if (!name.ok()) return name.status();
      for (size_t i = 0; i < tenants.size(); ++i) {
        if (tenants[i].name == *name) return Wrong(where, StrCat("tenant '", *name, "' is there twice; the first is at ", places[i]));
      }
      if (tenants.size() == kMaxTenants) return Wrong(where, StrCat("more than ", kMaxTenants, " tenants"));
      tenants.push_back({.name = *std::move(name), .user = {}, .group = {}, .flags = {}, .memory = {}});
      places.push_back(where);
      continue;
    }
    if (tenants.empty()) return Wrong(where, StrCat("'", line, "' stands before the first section; write [tenant] above it"));
    if (absl::Status s = AddLine(where, line, &tenants.back()); !s.ok()) return s;
  }
  if (tenants.empty()) return Wrong(path, "no tenant in it; write [tenant] and --memory=SIZE");
  for (size_t i = 0; i < tenants.size(); ++i) {
    if (tenants[i].memory.empty()) return Wrong(places[i], StrCat("tenant '", tenants[i].name, "' has no --memory; write --memory=SIZE into its section"));
  }
  std::sort(tenants.begin(), tenants.end(), [](const TenantSpec& a, const TenantSpec& b) { return a.name < b.name; });
  return tenants;
}

absl::StatusOr<std::vector<TenantSpec>> ReadTenantsFile(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(StrCat("flag --tenants: cannot open '", path, "': ", std::strerror(errno)));
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad() || text.str().size() > kMaxBytes) return absl::InvalidArgumentError(StrCat("flag --tenants: '", path, "' cannot be read, or is larger than 1 MiB"));
  return ParseTenants(text.str(), path);
}

absl::Status CheckMemory(const std::vector<TenantSpec>& tenants, const MemoryLimit& limit) {
  uint64_t sum = 0;
  std::string parts;
  for (const TenantSpec& tenant : tenants) {
    const absl::StatusOr<uint64_t> bytes = ParseSize(tenant.memory, limit.limit);
    if (!bytes.ok()) return bytes.status();
    sum += std::max(*bytes, kMinMemoryBytes);
    StrAppend(&parts, parts.empty() ? "" : ", ", tenant.name, " ", FormatSize(*bytes));
  }
  if (sum <= limit.limit) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("--memory of all tenants together is ", FormatSize(sum), " (", parts, "), and ", limit.source, " allows ", FormatSize(limit.limit),
                                           "; give them less"));
}

}  // namespace penstock::server
