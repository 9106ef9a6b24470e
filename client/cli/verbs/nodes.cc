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

constexpr FlagSpec kFlags[] = {
    {.name = "forget", .value = "NODE", .help = "give up what an absent node had: what only it had is gone then"},
};

constexpr Example kExamples[] = {
    {"penstock nodes", "the node that answers, its cluster, and how it reads the others"},
    {"penstock nodes --forget 0f5c...", "a host that burnt down: nobody waits for it any more"},
};

absl::Status Forget(Invocation& invocation, const std::string& node) {
  v1::ForgetNodeRequest request;
  request.set_node_uuid(node);
  CLI_ASSIGN_OR_RETURN(const v1::ForgetNodeResponse response,
                       invocation.Call<v1::ForgetNodeResponse>(rpc::Method::kForgetNode, request));
  if (invocation.json()) invocation.PrintJson(Json{{"node_uuid", node}, {"term", response.term()}});
  return absl::OkStatus();
}

void PrintCluster(const v1::ClusterInfo& cluster) {
  Table table({{"CLUSTER"}, {"TERM", Table::Align::kRight}, {"SERVES NAMES"}});
  table.Add({cluster.name(), StrCat(cluster.term()), cluster.serving() ? "yes" : StrCat("no: ", cluster.why())});
  table.Print();
  Table nodes({{"MEMBER"}, {"STATE"}, {"ADDRESS"}, {"HOST"}, {"ZONE"}, {"VERSION"}});
  for (const v1::ClusterNode& node : cluster.nodes()) {
    const absl::Time since = absl::FromUnixNanos(static_cast<int64_t>(node.absent_since_ns()));
    nodes.Add({node.node_uuid(), node.absent_since_ns() == 0 ? node.state() : StrCat(node.state(), " for ", AgeText(absl::Now() - since)),
               node.address(), node.host().empty() ? "-" : node.host(), node.zone().empty() ? "-" : node.zone(), node.version()});
  }
  nodes.Print();
}

absl::Status Run(Invocation& invocation) {
  if (invocation.args().Has("forget")) return Forget(invocation, invocation.args().Get("forget"));
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
  if (!node.tenant().empty()) invocation.Print(StrCat("tenant: ", node.tenant(), "\n"));
  if (node.has_cluster()) PrintCluster(node.cluster());
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
    .summary = "show the store's nodes, or give up an absent one",
    .details =
        "Shows the node that answers: its id, version, process and warden, how often its "
        "process was started on the same memory, how long it is up, and its addresses. Below, the "
        "cluster (--etcd): who is a member, who of them is being drained, and who is absent, that is, was expelled as its lease ended and may come back. Below, the "
        "other nodes: over which lane this one reads them, how much, and why not over a faster one.",
    .json =
        "an array of objects with the fields of NodeInfoResponse in store.proto: node_uuid, "
        "generation, version, layout_version, socket_dir, started_ns, pid, warden_pid, "
        "grpc_address, page_kind, data_address, lanes (an array of texts), and peers (an array of objects: "
        "address, node_uuid, lane, why, reads, read_bytes), tls (whether gRPC over TCP and the data port speak TLS only), "
        "tcp_address (of gRPC, for other hosts; empty: none), reads_by_rdma (whether it reads its peers by RDMA where they "
        "offer it), http_address (of HTTP: /metrics; empty: none), tenant (whose node it is; empty: everybody's), and cluster (an object: name, empty without etcd, term, serving, "
        "why not, and nodes, an array of objects: node_uuid, address, state \"up\", \"draining\" or \"absent\", host, zone, version, absent_since_ns). "
        "With --forget an object: node_uuid, term",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
