// penstock nodes: the nodes of the store that answer.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr Example kExamples[] = {
    {"penstock nodes", "one row a node: version, process ids, age, pages, addresses"},
};

absl::Status Run(Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(
      const v1::NodeInfoResponse node,
      invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo, v1::NodeInfoRequest()));
  if (invocation.json()) {
    Json json = Json::array();
    json.push_back(MessageJson(node));
    invocation.PrintJson(json);
    return absl::OkStatus();
  }
  Table table({{"NODE"},
               {"VERSION"},
               {"PID", Table::Align::kRight},
               {"WARDEN", Table::Align::kRight},
               {"STARTS", Table::Align::kRight},
               {"UP", Table::Align::kRight},
               {"PAGES"},
               {"SOCKETS"},
               {"GRPC"},
               {"DATA"},
               {"HTTP"}});
  const absl::Time started = absl::FromUnixNanos(static_cast<int64_t>(node.started_ns()));
  table.Add({node.node_uuid(), node.version(), StrCat(node.pid()), StrCat(node.warden_pid()),
             StrCat(node.generation()), AgeText(absl::Now() - started), node.page_kind(),
             node.socket_dir(), node.tcp_address().empty() ? "-" : node.tcp_address(),
             node.data_address().empty() ? "-" : StrCat(node.data_address(), node.tls() ? " (TLS)" : ""),
             node.http_address().empty() ? "-" : node.http_address()});
  table.Print();
  if (node.peers().empty()) return absl::OkStatus();
  Table peers({{"PEER"}, {"NODE"}, {"LANE"}, {"READS", Table::Align::kRight}, {"BYTES", Table::Align::kRight}, {"WHY"}});
  for (const v1::PeerInfo& peer : node.peers()) {
    peers.Add({peer.address(), peer.node_uuid().empty() ? "-" : peer.node_uuid(), peer.lane(),
               StrCat(peer.reads()), FormatSize(peer.read_bytes()), peer.why().empty() ? "-" : peer.why()});
  }
  peers.Print();
  return absl::OkStatus();
}

}  // namespace

const Verb kNodes = {
    .name = "nodes",
    .summary = "show the store's nodes",
    .details =
        "Shows the node that answers: its id, version, process and warden, how often its "
        "process was started on the same memory, how long it is up, and its addresses. Below, the "
        "other nodes (--peers): over which lane this one reads them, how much, and why not over a faster one.",
    .json =
        "an array of objects with the fields of NodeInfoResponse in store.proto: node_uuid, "
        "generation, version, layout_version, socket_dir, started_ns, pid, warden_pid, "
        "grpc_address, page_kind, data_address, lanes (an array of texts), and peers (an array of objects: "
        "address, node_uuid, lane, why, reads, read_bytes), tls (whether gRPC over TCP and the data port speak TLS only), "
        "tcp_address (of gRPC, for other hosts; empty: none), reads_by_rdma (whether it reads its peers by RDMA where they "
        "offer it), and http_address (of HTTP: /metrics; empty: none)",
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
