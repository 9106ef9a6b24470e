#include "server/penstockd/config.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "proto/sizes.h"
#include "proto/strcat.h"
#include "server/penstockd/config_sources.h"
#include "server/penstockd/flag_table.h"
#include "server/penstockd/node_library.h"
#include "server/penstockd/socket_dir.h"
#include "transport/memory_limit.h"

namespace penstock::server {
namespace {

constexpr uint64_t kDefaultPercent = 80;
constexpr int kDefaultDataPort = 7412;

// What the flags say; later settings of one source win, earlier sources win.
using Chosen = std::map<std::string, Setting>;

absl::Status Apply(const std::vector<Setting>& settings, const Chosen& stronger, NodeConfig* config,
                   Chosen* chosen) {
  for (const Setting& setting : settings) {
    const Flag* flag = FindFlag(setting.flag);
    NodeConfig unused;
    // A value that does not count must be right all the same: it would count tomorrow.
    NodeConfig* target = stronger.count(setting.flag) != 0 ? &unused : config;
    if (!flag->set(setting.value, target).ok()) {
      return absl::InvalidArgumentError(StrCat(setting.source, ": flag --", setting.flag,
                                               " cannot be '", setting.value,
                                               "'; allowed: ", flag->values));
    }
    if (target == config) (*chosen)[setting.flag] = setting;
  }
  return absl::OkStatus();
}

absl::Status ResolveMemory(NodeConfig* config) {
  const auto limit = ReadMemoryLimit();
  if (!limit.ok()) return limit.status();
  if (config->memory_text.empty()) {
    config->memory_bytes = std::max(limit->available / 100 * kDefaultPercent, kMinMemoryBytes);
    return absl::OkStatus();
  }
  const auto bytes = ParseSize(config->memory_text, limit->limit);
  if (!bytes.ok()) return bytes.status();
  config->memory_bytes = std::max(*bytes, kMinMemoryBytes);
  return absl::OkStatus();
}

// This machine's, as --host_label may be.
std::string HostName() {
  char name[256] = {};
  (void)gethostname(name, sizeof(name) - 1);
  std::string label = std::string(name).substr(0, kMaxLabelLetters);
  std::replace_if(label.begin(), label.end(), [](char c) { return !IsLabelLetter(c); }, '-');
  return label.empty() ? "localhost" : label;
}

absl::Status ResolveEtcd(NodeConfig* config) {
  const EtcdAccess& access = config->etcd_access;
  if (access.tls.cert.empty() != access.tls.key.empty() || (access.tls.on() && access.tls.ca.empty())) {
    return absl::InvalidArgumentError(StrCat("flag --", access.tls.cert.empty() ? "etcd_cert" : access.tls.key.empty() ? "etcd_key" : "etcd_ca",
                                             " is missing: TLS to etcd takes --etcd_ca, or --etcd_ca, --etcd_cert and --etcd_key"));
  }
  if (access.user.empty() != access.password_file.empty()) {
    return absl::InvalidArgumentError("flags --etcd_user and --etcd_password_file: both or none");
  }
  if (config->etcd.empty()) return absl::OkStatus();
  if (!config->peers.empty()) return absl::InvalidArgumentError("flag --peers cannot stand beside --etcd: the nodes find each other by one of them");
  if (config->grpc_port == kNoTcp || config->data_port == kNoTcp) {
    return absl::InvalidArgumentError(StrCat("flag --", config->grpc_port == kNoTcp ? "grpc_port" : "data_port",
                                             " cannot be 'none' beside --etcd: the other nodes could not reach this one"));
  }
  if (config->node_id.compare(0, 16, "0000000000000000") == 0) {
    return absl::InvalidArgumentError("flag --node_id cannot begin with 16 zeros beside --etcd: by its first half the nodes tell each other apart");
  }
  if (config->host_label.empty()) config->host_label = HostName();
  if (!config->advertise.empty()) return absl::OkStatus();
  if (config->host == "0.0.0.0" || config->host == "::" || config->host == "*") {
    return absl::InvalidArgumentError(StrCat("flag --advertise is missing: with --host=", config->host,
                                             " the other nodes must be told an address of this host, or its name"));
  }
  config->advertise = config->host;
  return absl::OkStatus();
}

absl::Status Resolve(const Environment& environment, const std::string& executable,
                     NodeConfig* config) {
  if (config->data_port == kDataPortAsGrpc) config->data_port = config->grpc_port > 0 ? kDefaultDataPort : config->grpc_port;
  const TlsFiles& tls = config->tls;
  if (tls.cert.empty() != tls.key.empty() || tls.cert.empty() != tls.ca.empty()) {
    return absl::InvalidArgumentError(StrCat("flag --", tls.cert.empty() ? "tls_cert" : tls.key.empty() ? "tls_key" : "tls_ca",
                                             " is missing: TLS takes --tls_cert, --tls_key and --tls_ca, or none of them"));
  }
  if (config->new_names == NewNames::kPeers && config->peers.empty() && config->etcd.empty()) {
    return absl::InvalidArgumentError("flag --new_names cannot be 'peers' without --peers or --etcd");
  }
  if (absl::Status etcd = ResolveEtcd(config); !etcd.ok()) return etcd;
  if (config->ucx_tcp == UcxTcpUse::kOn && tls.on()) {
    return absl::InvalidArgumentError("flag --ucx_tcp cannot be 'on' beside --tls_cert: UCX's tcp transport is not encrypted, and open to everybody");
  }
  if (config->socket_dir.empty()) config->socket_dir = DefaultSocketDir(environment);
  auto directory = AbsoluteSocketDir(config->socket_dir);
  if (!directory.ok()) return directory.status();
  config->socket_dir = *std::move(directory);
  if (!config->spill_dir.empty()) {
    std::error_code error;
    config->spill_dir = std::filesystem::absolute(config->spill_dir, error).lexically_normal();
    if (error) return absl::InvalidArgumentError(StrCat("flag --spill_dir: '", config->spill_dir, "' is no path: ", error.message()));
  } else if (!config->spill_limit.empty()) {
    return absl::InvalidArgumentError("flag --spill_limit needs --spill_dir");
  }
  if (config->node_library.empty()) config->node_library = FindNodeLibrary(executable);
  return ResolveMemory(config);
}

// A flagfile, grouped by where the values come from.
std::string PrintConfig(const NodeConfig& config, const Chosen& chosen) {
  std::map<std::string, std::string> groups;
  for (const Flag& flag : AllFlags()) {
    const auto it = chosen.find(flag.name);
    const std::string source = it == chosen.end() ? "default" : it->second.source;
    StrAppend(&groups[source], "--", flag.name, "=", flag.print(config), "\n");
  }
  std::string text = StrCat("# penstockd ", PENSTOCK_VERSION, "\n");
  for (const auto& [source, lines] : groups) StrAppend(&text, "# from: ", source, "\n", lines);
  return text;
}

}  // namespace

absl::StatusOr<LoadedConfig> LoadConfig(const std::vector<std::string>& arguments,
                                        const Environment& environment,
                                        const std::string& executable) {
  auto line = ReadCommandLine(arguments);
  if (!line.ok()) return line.status();
  LoadedConfig loaded;
  loaded.action = line->action;
  if (line->action == ConfigAction::kHelp) {
    loaded.text = HelpText();
    return loaded;
  }
  if (line->action == ConfigAction::kVersion) {
    loaded.text = StrCat("penstockd ", PENSTOCK_VERSION, "\n");
    return loaded;
  }
  Chosen chosen;
  absl::Status applied = Apply(line->settings, {}, &loaded.config, &chosen);
  if (!applied.ok()) return applied;
  const Chosen from_line = chosen;
  applied = Apply(ReadEnvironment(environment), from_line, &loaded.config, &chosen);
  if (!applied.ok()) return applied;
  const char* from_environment = environment("PENSTOCK_FLAGFILE");
  if (line->flagfile.empty() && from_environment != nullptr) line->flagfile = from_environment;
  if (!line->flagfile.empty()) {
    const auto settings = ReadFlagFile(line->flagfile);
    if (!settings.ok()) return settings.status();
    const Chosen stronger = chosen;
    applied = Apply(*settings, stronger, &loaded.config, &chosen);
    if (!applied.ok()) return applied;
  }
  if (absl::Status resolved = Resolve(environment, executable, &loaded.config); !resolved.ok()) {
    return resolved;
  }
  if (line->action == ConfigAction::kPrintConfig) loaded.text = PrintConfig(loaded.config, chosen);
  return loaded;
}

absl::StatusOr<LoadedConfig> LoadConfig(int argc, char** argv) {
  std::error_code error;
  const std::string executable = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::UnavailableError(StrCat("read /proc/self/exe: ", error.message()));
  return LoadConfig(
      std::vector<std::string>(argv + std::min(argc, 1), argv + argc),
      [](const char* name) -> const char* { return std::getenv(name); }, executable);
}

}  // namespace penstock::server
