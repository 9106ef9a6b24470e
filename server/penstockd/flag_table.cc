#include "server/penstockd/flag_table.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>

#include "proto/layout/catalog_layout.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "proto/tenant_name.h"

namespace penstock::server {
namespace {

absl::Status NotAllowed() { return absl::InvalidArgumentError(""); }  // Flag::values says what is

// A whole number in [low, high] and nothing else.
std::optional<int64_t> ParseNumber(std::string_view text, int64_t low, int64_t high,
                                   int base = 10) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (number < low || number > high) return std::nullopt;
  return number;
}

// Words and the values they stand for, in the order of the enum.
template <class Enum, size_t N>
absl::Status SetWord(std::string_view value, const char* const (&words)[N], Enum* out) {
  for (size_t i = 0; i < N; ++i) {
    if (value == words[i]) {
      *out = static_cast<Enum>(i);
      return absl::OkStatus();
    }
  }
  return NotAllowed();
}

constexpr uint64_t kPinsOfASession = layout::kPinsPerChunk;

constexpr const char* kHugePages[] = {"auto", "thp", "hugetlb", "off"};
constexpr const char* kAdopt[] = {"auto", "always"};
constexpr const char* kChecksum[] = {"off", "on"};
constexpr const char* kNewNames[] = {"here", "peers"};
constexpr const char* kRebalancing[] = {"auto", "off"};
constexpr const char* kRdma[] = {"auto", "on", "off"};
constexpr const char* kUcxTcp[] = {"off", "on"};
constexpr const char* kRequireTransport[] = {"none", "rdma"};
constexpr const char* kLogLevels[] = {"debug", "info", "warning", "error"};

absl::Status SetPath(std::string_view value, std::string* out) {
  if (value.empty() || value.find('\0') != std::string_view::npos) return NotAllowed();
  *out = std::string(value);
  return absl::OkStatus();
}

absl::Status SetSocketMode(std::string_view value, NodeConfig* config) {
  const auto mode = ParseNumber(value, 0, 0777, 8);
  if (!mode || (*mode & 0700) != 0700) return NotAllowed();
  config->socket_mode = static_cast<uint32_t>(*mode);
  return absl::OkStatus();
}

std::string PrintSocketMode(const NodeConfig& config) {
  char digits[8];
  const auto end = std::to_chars(digits, std::end(digits), config.socket_mode, 8).ptr;
  return "0" + std::string(digits, end);
}

// The form only: a percentage can be resolved when the limit is known, a size must be large enough.
absl::Status SetMemory(std::string_view value, NodeConfig* config) {
  const auto bytes = ParseSize(value, uint64_t{1} << 62);
  const bool percent = !value.empty() && value.back() == '%';
  if (!bytes.ok() || *bytes == 0) return NotAllowed();
  if (percent ? *bytes > (uint64_t{1} << 62) : *bytes < kMinMemoryBytes) return NotAllowed();
  config->memory_text = std::string(value);
  return absl::OkStatus();
}

absl::Status SetSpillLimit(std::string_view value, NodeConfig* config) {
  const auto bytes = ParseSize(value, 100);
  const bool percent = !value.empty() && value.back() == '%';
  if (!value.empty() && (!bytes.ok() || *bytes == 0 || (percent && *bytes > 100))) return NotAllowed();
  config->spill_limit = std::string(value);
  return absl::OkStatus();
}

// People's form when it says the same, else bytes.
std::string PrintMemory(const NodeConfig& config) {
  const std::string text = FormatSize(config.memory_bytes);
  const auto back = ParseSize(text);
  return back.ok() && *back == config.memory_bytes ? text : StrCat(config.memory_bytes);
}

absl::Status SetPort(std::string_view value, int* out) {
  if (value == "none" || value == "-1") {
    *out = kNoTcp;
    return absl::OkStatus();
  }
  const auto port = ParseNumber(value, 0, 65535);
  if (!port) return NotAllowed();
  *out = static_cast<int>(*port);
  return absl::OkStatus();
}

absl::Status SetFile(std::string_view value, std::string* out) {
  *out = std::string(value);
  return absl::OkStatus();
}

absl::Status SetAddresses(std::string_view value, std::vector<std::string>* out) {
  std::vector<std::string> addresses;
  while (!value.empty()) {
    const size_t comma = std::min(value.find(','), value.size());
    const std::string_view one = value.substr(0, comma);
    value.remove_prefix(std::min(comma + 1, value.size()));
    const size_t colon = one.rfind(':');
    if (colon == std::string_view::npos || colon == 0 || one.find('/') != std::string_view::npos || !ParseNumber(one.substr(colon + 1), 1, 65535)) return NotAllowed();
    addresses.emplace_back(one);
  }
  *out = std::move(addresses);
  return absl::OkStatus();
}

absl::Status SetNodeId(std::string_view value, NodeConfig* config) {
  const bool hex = std::all_of(value.begin(), value.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (!hex || (!value.empty() && (value.size() != 32 || value.find_first_not_of('0') == std::string_view::npos))) return NotAllowed();
  config->node_id = std::string(value);
  return absl::OkStatus();
}

absl::Status SetLabel(std::string_view value, std::string* out) {
  if (!std::all_of(value.begin(), value.end(), IsLabelLetter) || value.size() > kMaxLabelLetters) return NotAllowed();
  *out = std::string(value);
  return absl::OkStatus();
}

absl::Status SetMemberTtl(std::string_view value, NodeConfig* config) {
  const auto ttl = ParseDuration(value);
  if (!ttl.ok() || *ttl < absl::Seconds(2) || *ttl > absl::Minutes(5) || *ttl % absl::Seconds(1) != absl::ZeroDuration()) return NotAllowed();
  config->member_ttl_s = static_cast<int>(absl::ToInt64Seconds(*ttl));
  return absl::OkStatus();
}

absl::Status SetRepairBandwidth(std::string_view value, NodeConfig* config) {
  const auto bytes = value == "unlimited" ? absl::StatusOr<uint64_t>(0) : ParseSize(value);
  if (!bytes.ok()) return NotAllowed();
  config->repair_bandwidth = *bytes;
  return absl::OkStatus();
}

std::string PrintList(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& one : list) text += (text.empty() ? "" : ",") + one;
  return text;
}

std::string PrintPort(int port) { return port < 0 ? "none" : StrCat(port); }

absl::Status SetMaxSessions(std::string_view value, NodeConfig* config) {
  const auto count = ParseNumber(value, 1, 1'000'000);
  if (!count) return NotAllowed();
  config->max_sessions = static_cast<uint32_t>(*count);
  return absl::OkStatus();
}

// 0 is no limit.
absl::Status SetLimit(std::string_view value, uint64_t* out) {
  const auto count = ParseNumber(value, 0, int64_t{1} << 40);
  if (!count) return NotAllowed();
  *out = static_cast<uint64_t>(*count);
  return absl::OkStatus();
}

// Every session needs room for one chunk of pins (proto/layout/catalog_layout.h).
absl::Status SetMaxPins(std::string_view value, NodeConfig* config) {
  uint64_t count = 0;
  if (!SetLimit(value, &count).ok() || (count != 0 && count < kPinsOfASession)) return NotAllowed();
  config->max_pins = count;
  return absl::OkStatus();
}

absl::Status SetTenant(std::string_view value, NodeConfig* config) {
  if (!value.empty() && !IsTenantName(value)) return NotAllowed();
  config->tenant = std::string(value);
  return absl::OkStatus();
}

absl::Status SetExitWithParent(std::string_view value, NodeConfig* config) {
  if (value != "true" && value != "false") return NotAllowed();
  config->exit_with_parent = value == "true";
  return absl::OkStatus();
}

absl::Status SetReadyFd(std::string_view value, NodeConfig* config) {
  const auto fd = ParseNumber(value, -1, 1 << 20);
  if (!fd) return NotAllowed();
  config->ready_fd = static_cast<int>(*fd);
  return absl::OkStatus();
}

constexpr Flag kFlags[] = {
    {"socket_dir", "a directory",
     "where grpc.sock and fd.sock lie (default: /run/penstock if writable, else\n"
     "$XDG_RUNTIME_DIR/penstock, else /tmp/penstock-<uid>)",
     false, [](std::string_view v, NodeConfig* c) { return SetPath(v, &c->socket_dir); },
     [](const NodeConfig& c) { return c.socket_dir; }},
    {"socket_mode", "octal permission bits from 0700 to 0777",
     "permissions of the socket directory; the sockets get the same without x (default 0700)",
     false, SetSocketMode, PrintSocketMode},
    {"memory", "a size of 64MiB or more (64MiB, 1.5GiB), or 1%..100% of the memory limit",
     "memory for tensors (default: 80% of what is available at the start)", false, SetMemory,
     PrintMemory},
    {"grpc_port", "0..65535, or none",
     "TCP port of gRPC; 0 takes a free one, none listens on grpc.sock only (default 7411)", false,
     [](std::string_view v, NodeConfig* c) { return SetPort(v, &c->grpc_port); },
     [](const NodeConfig& c) { return PrintPort(c.grpc_port); }},
    {"host", "an address or host name of this host",
     "where the TCP port listens (default 127.0.0.1)", false,
     [](std::string_view v, NodeConfig* c) { return SetPath(v, &c->host); },
     [](const NodeConfig& c) { return c.host; }},
    {"data_port", "0..65535, or none",
     "TCP port where sessions of other hosts read tensors; 0 takes a free one, none is for one\n"
     "host alone (default 7412, or 0 or none where --grpc_port is)", false,
     [](std::string_view v, NodeConfig* c) { return SetPort(v, &c->data_port); },
     [](const NodeConfig& c) { return PrintPort(c.data_port); }},
    {"data_net", "an address or host name of this host",
     "where the data port listens, and what other hosts are told (default 127.0.0.1)", false,
     [](std::string_view v, NodeConfig* c) { return SetPath(v, &c->data_net); },
     [](const NodeConfig& c) { return c.data_net; }},
    {"http_port", "0..65535, or none",
     "TCP port where Prometheus reads this node's metrics (GET /metrics), commonly 7413; 0 takes a\n"
     "free one (default none)", false,
     [](std::string_view v, NodeConfig* c) { return SetPort(v, &c->http_port); },
     [](const NodeConfig& c) { return PrintPort(c.http_port); }},
    {"http_net", "an IPv4 address of this host",
     "where the HTTP port listens: it is in clear, and open to whoever reaches it. It has numbers, no\n"
     "names of tensors (default 127.0.0.1)", false,
     [](std::string_view v, NodeConfig* c) { return SetPath(v, &c->http_net); },
     [](const NodeConfig& c) { return c.http_net; }},
    {"peers", "a comma list of host:port",
     "gRPC addresses of the other nodes of the store: tensors that were put there are found and\n"
     "copied here when they are asked for (default: none)", false,
     [](std::string_view v, NodeConfig* c) { return SetAddresses(v, &c->peers); },
     [](const NodeConfig& c) { return PrintList(c.peers); }},
    {"etcd", "a comma list of host:port",
     "members of an etcd (3.4 or newer) by which the nodes of a cluster find each other, instead of\n"
     "--peers (default: none)", false,
     [](std::string_view v, NodeConfig* c) { return SetAddresses(v, &c->etcd); },
     [](const NodeConfig& c) { return PrintList(c.etcd); }},
    {"cluster", "letters, digits, - _ . (at most 63)",
     "which of the clusters that share an etcd this node is of (default penstock)", false,
     [](std::string_view v, NodeConfig* c) { return v.empty() ? NotAllowed() : SetLabel(v, &c->cluster); },
     [](const NodeConfig& c) { return c.cluster; }},
    {"member_ttl", "whole seconds from 2s to 5m",
     "how long a node that is not heard of any more stays a member, and how long one that does not\n"
     "reach etcd serves names (default 3s)", false, SetMemberTtl,
     [](const NodeConfig& c) { return StrCat(c.member_ttl_s, "s"); }},
    {"node_id", "32 hexadecimal digits, or nothing",
     "this node's id, the same whenever it is started; one node alive may have it (default: a random one)",
     false, SetNodeId, [](const NodeConfig& c) { return c.node_id; }},
    {"zone", "letters, digits, - _ . (at most 63), or nothing",
     "what fails together with this host: a rack, a power feed (default: nothing)", false,
     [](std::string_view v, NodeConfig* c) { return SetLabel(v, &c->zone); },
     [](const NodeConfig& c) { return c.zone; }},
    {"host_label", "letters, digits, - _ . (at most 63), or nothing",
     "the machine that this node is on: replicas of one tensor are kept on different ones (default: the\n"
     "host's name; nodes in containers of one machine take the machine's)", false,
     [](std::string_view v, NodeConfig* c) { return SetLabel(v, &c->host_label); },
     [](const NodeConfig& c) { return c.host_label; }},
    {"advertise", "an address or host name of this host",
     "where other nodes reach --grpc_port (default: --host, unless that is every address)", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->advertise); },
     [](const NodeConfig& c) { return c.advertise; }},
    {"etcd_user", "a name, or nothing", "who this node is for etcd (default: nobody)", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->etcd_access.user); },
     [](const NodeConfig& c) { return c.etcd_access.user; }},
    {"etcd_password_file", "a file, or nothing", "the password of --etcd_user, on its first line", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->etcd_access.password_file); },
     [](const NodeConfig& c) { return c.etcd_access.password_file; }},
    {"etcd_ca", "a PEM file, or nothing", "the CA that etcd's certificate is checked against: TLS to etcd (default: no TLS)", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->etcd_access.tls.ca); },
     [](const NodeConfig& c) { return c.etcd_access.tls.ca; }},
    {"etcd_cert", "a PEM file, or nothing", "this node's certificate for etcd; with --etcd_key and --etcd_ca", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->etcd_access.tls.cert); },
     [](const NodeConfig& c) { return c.etcd_access.tls.cert; }},
    {"etcd_key", "a PEM file, or nothing", "the private key of --etcd_cert, without a passphrase", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->etcd_access.tls.key); },
     [](const NodeConfig& c) { return c.etcd_access.tls.key; }},
    {"repair_bandwidth", "a size, or unlimited",
     "bytes a second that this node takes from others, at most, for copies that nobody waits for: of\n"
     "what was lost, of nodes that drain, of tensors that are moved (default 200MiB)", false, SetRepairBandwidth,
     [](const NodeConfig& c) { return c.repair_bandwidth == 0 ? "unlimited" : StrCat(c.repair_bandwidth); }},
    {"rebalance", "auto or off",
     "move tensors whose names are at home here from the fullest node to the emptiest one, slowly, while\n"
     "they differ by more than 10 % of their memory, and 64 MiB (auto), or never (off) (default auto)", false,
     [](std::string_view v, NodeConfig* c) { return SetWord(v, kRebalancing, &c->rebalance); },
     [](const NodeConfig& c) { return std::string(kRebalancing[static_cast<int>(c.rebalance)]); }},
    {"new_names", "here or peers",
     "where a tensor is kept whose name no node has yet: in this one (here), or in one of the others\n"
     "(peers): this node then keeps copies only, and nothing is lost with it (default here)", false,
     [](std::string_view v, NodeConfig* c) { return SetWord(v, kNewNames, &c->new_names); },
     [](const NodeConfig& c) { return std::string(kNewNames[static_cast<int>(c.new_names)]); }},
    {"tls_cert", "a PEM file, or nothing",
     "this node's certificate; with --tls_key and --tls_ca gRPC over TCP demands TLS and a certificate\n"
     "of that CA from nodes and clients, and the data port speaks TLS only (default: no TLS)", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->tls.cert); },
     [](const NodeConfig& c) { return c.tls.cert; }},
    {"tls_key", "a PEM file, or nothing", "the private key of --tls_cert, without a passphrase", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->tls.key); },
     [](const NodeConfig& c) { return c.tls.key; }},
    {"tls_ca", "a PEM file, or nothing", "the CA that every certificate is checked against", false,
     [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->tls.ca); },
     [](const NodeConfig& c) { return c.tls.ca; }},
    {"rdma", "auto, on or off",
     "read other nodes, and let them read this one, by RDMA where both have a device: they are then\n"
     "given keys with which they could also write, and nothing is encrypted (on); the same, but not\n"
     "beside --tls_cert (auto); over TCP only (off) (default auto)",
     false, [](std::string_view v, NodeConfig* c) { return SetWord(v, kRdma, &c->rdma); },
     [](const NodeConfig& c) { return std::string(kRdma[static_cast<int>(c.rdma)]); }},
    {"ucx_tcp", "off or on",
     "where there is no RDMA, move tensors over UCX's own tcp transport between nodes that both have\n"
     "this on; DANGER: it opens a port through which whoever reaches it can write any address of this\n"
     "process, unasked. The default is safe, and faster (default off)",
     false, [](std::string_view v, NodeConfig* c) { return SetWord(v, kUcxTcp, &c->ucx_tcp); },
     [](const NodeConfig& c) { return std::string(kUcxTcp[static_cast<int>(c.ucx_tcp)]); }},
    {"require_transport", "none or rdma",
     "read other nodes by RDMA or not at all (rdma): what would go over TCP is an error instead, puts\n"
     "to other nodes included (default none)",
     false, [](std::string_view v, NodeConfig* c) { return SetWord(v, kRequireTransport, &c->require_transport); },
     [](const NodeConfig& c) { return std::string(kRequireTransport[static_cast<int>(c.require_transport)]); }},
    {"huge_pages", "auto, thp, hugetlb or off",
     "pages of large segments: reserved 2 MiB pages if there are, else transparent huge\n"
     "pages, else small ones (auto, hugetlb); no reserved ones (thp); small (off) (default auto)",
     false,
     [](std::string_view v, NodeConfig* c) { return SetWord(v, kHugePages, &c->huge_pages); },
     [](const NodeConfig& c) { return std::string(kHugePages[static_cast<int>(c.huge_pages)]); }},
    {"adopt", "auto or always",
     "copy tensors out of memory that their writer could change: when the writer is gone\n"
     "(auto), or at once (always) (default auto)",
     false, [](std::string_view v, NodeConfig* c) { return SetWord(v, kAdopt, &c->adopt); },
     [](const NodeConfig& c) { return std::string(kAdopt[static_cast<int>(c.adopt)]); }},
    {"checksum", "off or on",
     "compute a CRC32C of every tensor that is put here, and compare it whenever the bytes have been\n"
     "moved: to another node, to a replica; a copy that is damaged is given up for another (default off)",
     false, [](std::string_view v, NodeConfig* c) { return SetWord(v, kChecksum, &c->checksum); },
     [](const NodeConfig& c) { return std::string(kChecksum[static_cast<int>(c.checksum)]); }},
    {"spill_dir", "a directory, or nothing",
     "where tensors of class keep go, coldest first, when memory is full; they come back when they are\n"
     "asked for. Without --etcd what lies there when the node stops is served again by the next one\n"
     "(default: none; full is an error)",
     false, [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->spill_dir); },
     [](const NodeConfig& c) { return c.spill_dir; }},
    {"spill_limit", "a size, 1%..100% of the file system of --spill_dir, or nothing",
     "the most that --spill_dir may take; when it and the memory are full, it may take as much more as\n"
     "the memory is while tensors come back (default: 80% of what is free there at the start)", false, SetSpillLimit,
     [](const NodeConfig& c) { return c.spill_limit; }},
    {"max_sessions", "1..1000000", "sessions at once (default 1024)", false, SetMaxSessions,
     [](const NodeConfig& c) { return StrCat(c.max_sessions); }},
    {"max_tensors", "0 (no limit) or more",
     "tensors and drafts that this node keeps at most; of the cache class the oldest then make room, else\n"
     "puts are refused (default 0)",
     false, [](std::string_view v, NodeConfig* c) { return SetLimit(v, &c->max_tensors); },
     [](const NodeConfig& c) { return StrCat(c.max_tensors); }},
    {"max_pins", "0 (no limit), or 8192 or more",
     "pins that all sessions together have room for; each gets 8192 at first, and as many again when it\n"
     "needs them, if they are within this. A session that begins beyond it is refused (default 0)",
     false, SetMaxPins,
     [](const NodeConfig& c) { return StrCat(c.max_pins); }},
    {"max_requests_per_second", "0 (no limit) or more",
     "requests of all clients together; what comes above it waits for its turn and is not refused. Gets\n"
     "of what is on this host make no request (default 0)",
     false, [](std::string_view v, NodeConfig* c) { return SetLimit(v, &c->max_requests_per_second); },
     [](const NodeConfig& c) { return StrCat(c.max_requests_per_second); }},
    {"tenant", "a-z, 0-9 and - (at most 63), or nothing",
     "whose node this is: shown by penstock nodes and in metrics (default: nothing, everybody's)", false,
     SetTenant, [](const NodeConfig& c) { return c.tenant; }},
    {"tenants", "a file, or nothing",
     "start a node for each tenant that the file lists instead of one: [name], then lines of --flag=value,\n"
     "user= and group=; see the README. Flags beside it go to all of them (default: nothing)",
     false, [](std::string_view v, NodeConfig* c) { return SetFile(v, &c->tenants_file); },
     [](const NodeConfig& c) { return c.tenants_file; }},
    {"log_level", "debug, info, warning or error", "least weight of a log line (default info)",
     false, [](std::string_view v, NodeConfig* c) { return SetWord(v, kLogLevels, &c->log_level); },
     [](const NodeConfig& c) { return std::string(kLogLevels[static_cast<int>(c.log_level)]); }},
    {"exit_with_parent", "true or false",
     "stop when the process that started it ends (default false)", true, SetExitWithParent,
     [](const NodeConfig& c) { return std::string(c.exit_with_parent ? "true" : "false"); }},
    {"ready_fd", "an open descriptor, or -1",
     "gets one line of JSON when the node serves, then is closed (default -1)", false, SetReadyFd,
     [](const NodeConfig& c) { return StrCat(c.ready_fd); }},
    {"node_library", "a file", "libpenstock_node.so (default: the one installed with this program)",
     false, [](std::string_view v, NodeConfig* c) { return SetPath(v, &c->node_library); },
     [](const NodeConfig& c) { return c.node_library; }},
};

}  // namespace

absl::Span<const Flag> AllFlags() { return kFlags; }

const Flag* FindFlag(std::string_view name) {
  for (const Flag& flag : kFlags) {
    if (name == flag.name) return &flag;
  }
  return nullptr;
}

std::string HelpText() {
  std::string text =
      "penstockd: keeps tensors in shared memory for the processes of this host.\n\n"
      "usage: penstockd [--flag=value ...]\n\n"
      "A flag that is not given is taken from the environment (PENSTOCK_SOCKET_DIR for\n"
      "--socket_dir), then from the --flagfile, then it is the default.\n\n";
  for (const Flag& flag : kFlags) {
    StrAppend(&text, "  --", flag.name, "=VALUE   ", flag.values, "\n");
    std::string_view rest = flag.meaning;
    while (!rest.empty()) {
      const size_t end = std::min(rest.find('\n'), rest.size());
      StrAppend(&text, "      ", rest.substr(0, end), "\n");
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  StrAppend(&text,
            "  --flagfile=FILE   lines of --flag=value; # starts a comment line\n"
            "  --print_config    print what would be used, as a flagfile, and exit\n"
            "  --version         print the version and exit\n"
            "  --help            print this and exit\n\n"
            "Exit codes: 0 stopped as asked, 1 failed, 2 wrong flag or value.\n");
  return text;
}

}  // namespace penstock::server
