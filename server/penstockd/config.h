// NodeConfig: everything that penstockd can be told, and the one place that reads it.
//
// A value comes from the command line, else from the environment (PENSTOCK_<FLAG>), else from the
// --flagfile, else it is the default. The warden reads it once; forked nodes see the same object.
//
// Threading:  constant after LoadConfig
// Ownership:  plain values, no handles: it survives fork as it is
// Errors:     INVALID_ARGUMENT that names the source, the flag, the value and what is allowed
// Limits:     no other file of the server calls getenv
#ifndef PENSTOCK_SERVER_PENSTOCKD_CONFIG_H_
#define PENSTOCK_SERVER_PENSTOCKD_CONFIG_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace penstock::server {

enum class HugePages : uint8_t { kAuto, kThp, kHugetlb, kOff };
enum class Adopt : uint8_t { kAuto, kAlways };
enum class Checksum : uint8_t { kOff, kOn };
enum class Rdma : uint8_t { kAuto, kOn, kOff };  // auto: not beside TLS, for RDMA is in clear
enum class Rebalancing : uint8_t { kAuto, kOff };
enum class NewNames : uint8_t { kHere, kPeers };
enum class UcxTcpUse : uint8_t { kOff, kOn };
enum class RequireTransport : uint8_t { kNone, kRdma };
enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

inline constexpr uint64_t kMinMemoryBytes = uint64_t{64} << 20;
inline constexpr int kNoTcp = -1;
inline constexpr int kDataPortAsGrpc = -2;  // 7412, or as --grpc_port where that is 0 or none

// PEM files; all three or none.
struct TlsFiles {
  std::string cert, key, ca;
  bool on() const { return !cert.empty(); }
};

// How etcd is asked. tls: a CA alone, or with a certificate and its key; nothing: no TLS.
struct EtcdAccess {
  TlsFiles tls;
  std::string user;           // empty: none
  std::string password_file;  // one line
};

struct NodeConfig {
  std::string socket_dir;          // absolute after LoadConfig
  uint32_t socket_mode = 0700;     // of the directory; its sockets get the same without x
  uint64_t memory_bytes = 0;       // what --memory asks for; the node takes less if a limit says so
  int grpc_port = 7411;            // 0 = a free one, kNoTcp = grpc.sock only
  std::string host = "127.0.0.1";  // where the TCP listener binds
  int data_port = kDataPortAsGrpc;  // 0 = a free one, kNoTcp = none; never kDataPortAsGrpc after LoadConfig
  std::string data_net = "127.0.0.1";  // where the data port listens
  int http_port = kNoTcp;              // 0 = a free one
  std::string http_net = "127.0.0.1";  // where the HTTP port listens
  std::vector<std::string> peers;      // gRPC addresses of the other nodes
  std::vector<std::string> etcd;       // host:port; empty: --peers, or alone
  EtcdAccess etcd_access;
  std::string cluster = "penstock";
  int member_ttl_s = 3;
  std::string node_id;                 // 32 hexadecimal digits; empty: a random one
  std::string zone;
  std::string host_label;              // what two replicas of one tensor do not share; never empty after LoadConfig where there is etcd
  std::string advertise;               // host that other nodes reach --grpc_port by; never empty after LoadConfig where there is etcd
  uint64_t repair_bandwidth = uint64_t{200} << 20;  // bytes a second; 0: no limit
  Rebalancing rebalance = Rebalancing::kAuto;
  NewNames new_names = NewNames::kHere;  // who is the home of a name that no node has
  Rdma rdma = Rdma::kAuto;
  UcxTcpUse ucx_tcp = UcxTcpUse::kOff;
  TlsFiles tls;  // of gRPC; the data port then speaks TLS, too
  RequireTransport require_transport = RequireTransport::kNone;
  HugePages huge_pages = HugePages::kAuto;
  Adopt adopt = Adopt::kAuto;
  Checksum checksum = Checksum::kOff;
  std::string spill_dir;    // absolute after LoadConfig; empty: none
  std::string spill_limit;  // a size, or a percentage of the file system there; empty: 80% of what is free
  uint32_t max_sessions = 1024;
  uint64_t max_tensors = 0;              // this and the next two: 0 = no limit
  uint64_t max_pins = 0;                 // room for pins of all sessions together
  uint64_t max_requests_per_second = 0;  // of all clients together; what comes above it waits
  std::string tenant;                    // whose node it is; empty: everybody's
  std::string tenants_file;              // not empty: this process is a supervisor (tenants.h), and no node
  LogLevel log_level = LogLevel::kInfo;
  bool exit_with_parent = false;
  int ready_fd = -1;         // the warden's; a node writes to NodeContext::ready_fd
  std::string node_library;  // absolute path of libpenstock_node.so
  std::string memory_text;   // --memory as given; empty = the default

  std::string FdSocketPath() const { return socket_dir + "/fd.sock"; }
  std::string GrpcSocketPath() const { return socket_dir + "/grpc.sock"; }
  bool MayUseRdma() const { return rdma == Rdma::kOn || (rdma == Rdma::kAuto && !tls.on()); }
  uint32_t SocketFileMode() const { return socket_mode & 0666; }
};

enum class ConfigAction : uint8_t { kServe, kHelp, kVersion, kPrintConfig };

struct LoadedConfig {
  NodeConfig config;
  ConfigAction action = ConfigAction::kServe;
  std::string text;  // what --help, --version, --print_config print
};

// `environment` returns null for what is not set; outside tests it is std::getenv.
using Environment = std::function<const char*(const char*)>;

// `arguments` without argv[0]; `executable` is the absolute path of penstockd.
absl::StatusOr<LoadedConfig> LoadConfig(const std::vector<std::string>& arguments,
                                        const Environment& environment,
                                        const std::string& executable);
absl::StatusOr<LoadedConfig> LoadConfig(int argc, char** argv);  // of this process

}  // namespace penstock::server

#endif  // PENSTOCK_SERVER_PENSTOCKD_CONFIG_H_
