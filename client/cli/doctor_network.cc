// How this host reaches others, and they this one.
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "client/cli/doctor_checks.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kEthernetMtu = 1500;
constexpr uint64_t kComfortableMemlock = uint64_t{64} << 20;
constexpr char kNoSuchTensor[] = ".penstock/doctor";  // asking for it asks every peer

std::string FirstLine(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<std::string> Entries(const char* directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Finding CheckRdmaDevices() {
  Finding finding{Health::kOk, "RDMA devices", "", ""};
  for (const std::string& name : Entries("/sys/class/infiniband")) {
    StrAppend(&finding.found, finding.found.empty() ? "" : ", ", name);
  }
  if (finding.found.empty()) finding.found = "none; other hosts are read over TCP";
  return finding;
}

Finding CheckMtu() {
  Finding finding{Health::kOk, "MTU", "", ""};
  for (const std::string& name : Entries("/sys/class/net")) {
    const fs::path device = fs::path("/sys/class/net") / name;
    if (name == "lo" || FirstLine(device / "operstate") == "down") continue;
    const std::string mtu = FirstLine(device / "mtu");
    StrAppend(&finding.found, finding.found.empty() ? "" : ", ", name, " ", mtu);
    if (std::atoi(mtu.c_str()) >= kEthernetMtu) continue;
    finding.health = Health::kWarn;
    finding.advice = "small frames slow transfers down: ip link set DEVICE mtu 1500, or 9000 where every switch takes it";
  }
  if (finding.found.empty()) finding.found = "no network interface is up";
  return finding;
}

// The soft limit of the node's process, whose memory it is.
Finding CheckNodeMemlock(const v1::NodeInfoResponse& node) {
  Finding finding{Health::kOk, "node's memlock", "no RDMA here, so nothing has to be locked", ""};
  if (std::find(node.lanes().begin(), node.lanes().end(), "rdma") == node.lanes().end()) return finding;
  std::ifstream limits(StrCat("/proc/", node.pid(), "/limits"));
  constexpr std::string_view kName = "Max locked memory";
  for (std::string line; std::getline(limits, line);) {
    if (!line.starts_with(kName)) continue;
    const std::string soft = line.substr(line.find_first_not_of(' ', kName.size()));
    const std::string value = soft.substr(0, soft.find(' '));
    finding.found = value;
    if (value != "unlimited" && std::strtoull(value.c_str(), nullptr, 10) < kComfortableMemlock) {
      finding.health = Health::kWarn;
      finding.found = FormatSize(std::strtoull(value.c_str(), nullptr, 10));
      finding.advice = "RDMA registers the store's memory: start penstockd with ulimit -l unlimited (LimitMEMLOCK=infinity)";
    }
    return finding;
  }
  return {Health::kWarn, finding.check, StrCat("/proc/", node.pid(), "/limits cannot be read"), "run doctor on the node's host"};
}

bool IsLoopback(std::string_view address) {
  return address.starts_with("127.") || address.starts_with("localhost:") || address.starts_with("[::1]");
}

bool IsAny(std::string_view address) { return address.starts_with("0.0.0.0:") || address.starts_with("[::]:"); }

Finding CheckDataPort(const v1::NodeInfoResponse& node) {
  const std::string& address = node.data_address();
  if (address.empty()) {
    return {Health::kOk, "data port", "none: other hosts read nothing here (--data_port)", ""};
  }
  Finding finding{Health::kOk, "data port", StrCat(address, node.tls() ? ", TLS" : ""), ""};
  if (IsAny(address)) {
    finding.health = Health::kWarn;
    finding.advice = "this address is what other hosts are told, and none of them reaches it: --data_net=ADDRESS of this host";
  } else if (!IsLoopback(address) && !node.tls()) {
    StrAppend(&finding.found, "; whoever reaches it and the gRPC port can read and put, and nothing is encrypted: a trusted network, or --tls_cert");
  } else if (node.peers_size() > 0) {
    finding.health = Health::kWarn;
    StrAppend(&finding.found, ", loopback");
    finding.advice = "peers on other hosts cannot read here: start penstockd with --data_net=ADDRESS of this host";
  }
  return finding;
}

Finding CheckUcxTcp(const v1::NodeInfoResponse& node) {
  if (std::find(node.lanes().begin(), node.lanes().end(), "ucx-tcp") == node.lanes().end()) return {Health::kOk, "ucx-tcp", "off: no port of UCX's is open", ""};
  return {Health::kWarn, "ucx-tcp", "on: through UCX's tcp port whoever reaches it can write any address of the node's process",
          "leave out --ucx_tcp unless all of this network is trusted; the stream lane is faster, too"};
}

Finding CheckPeer(const v1::PeerInfo& peer) {
  Finding finding{Health::kOk, "peer", StrCat(peer.address(), ": ", peer.lane()), ""};
  if (peer.node_uuid().empty() || !peer.error().empty()) {
    finding.health = Health::kFail;
    finding.found = StrCat(peer.address(), ": does not answer", peer.error().empty() ? "" : ": ", peer.error());
    finding.advice = "does penstockd run there, with --host and --grpc_port of this address, and do firewalls let it through?";
  } else if (!peer.why().empty()) {
    StrAppend(&finding.found, "; ", peer.why());
  }
  return finding;
}

}  // namespace

std::vector<Finding> CheckNetwork() { return {CheckRdmaDevices(), CheckMtu()}; }

std::vector<Finding> CheckLanes(Invocation& invocation, const v1::NodeInfoResponse& node) {
  std::vector<Finding> findings{CheckDataPort(node), CheckNodeMemlock(node), CheckUcxTcp(node)};
  if (node.peers_size() == 0) return findings;
  if (const absl::StatusOr<Client*> client = invocation.Connect(); client.ok()) (void)(*client)->Get(kNoSuchTensor);
  const auto asked = invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo, v1::NodeInfoRequest());
  for (const v1::PeerInfo& peer : (asked.ok() ? *asked : node).peers()) findings.push_back(CheckPeer(peer));
  return findings;
}

}  // namespace penstock::cli
