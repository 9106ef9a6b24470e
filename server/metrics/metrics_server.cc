#include "server/metrics/metrics_server.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <atomic>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "proto/strcat.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::server {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// One number of `penstock df`.
struct DfMetric {
  const char* name;
  MetricType type;
  const char* help;
  uint64_t (v1::DfResponse::*value)() const;
};

constexpr DfMetric kDf[] = {
    {"penstock_memory_limit_bytes", MetricType::Gauge, "The most that this node takes for tensors", &v1::DfResponse::memory_bytes},
    {"penstock_segment_bytes", MetricType::Gauge, "Memory taken, free space in it included", &v1::DfResponse::segment_bytes},
    {"penstock_tensor_bytes", MetricType::Gauge, "Bytes of live tensors", &v1::DfResponse::tensor_bytes},
    {"penstock_cache_bytes", MetricType::Gauge, "Of penstock_tensor_bytes those that may be evicted", &v1::DfResponse::cache_bytes},
    {"penstock_draft_bytes", MetricType::Gauge, "Bytes of tensors that are being written", &v1::DfResponse::draft_bytes},
    {"penstock_retired_bytes", MetricType::Gauge, "Bytes of replaced or deleted tensors that somebody still reads", &v1::DfResponse::retired_bytes},
    {"penstock_quarantined_bytes", MetricType::Gauge, "Bytes of transfers that were given up, until the network device lets go of them",
     &v1::DfResponse::quarantined_bytes},
    {"penstock_tensors", MetricType::Gauge, "Live tensors", &v1::DfResponse::tensors},
    {"penstock_withheld", MetricType::Gauge, "Tensors that are kept and not served by name until the cluster's directory has settled them",
     &v1::DfResponse::withheld},
    {"penstock_withheld_bytes", MetricType::Gauge, "Bytes of penstock_withheld", &v1::DfResponse::withheld_bytes},
    {"penstock_quarantined_tensors", MetricType::Gauge, "Of penstock_withheld those that nobody can tell to be current (penstock quarantine settles them)",
     &v1::DfResponse::quarantined},
    {"penstock_damaged", MetricType::Gauge, "Records that a restart of the node found impossible: not served, and kept as they are", &v1::DfResponse::damaged},
    {"penstock_damaged_bytes", MetricType::Gauge, "Bytes of penstock_damaged", &v1::DfResponse::damaged_bytes},
    {"penstock_tensors_limit", MetricType::Gauge, "--max_tensors; 0: no limit", &v1::DfResponse::max_tensors},
    {"penstock_pins_limit", MetricType::Gauge, "--max_pins; 0: no limit", &v1::DfResponse::max_pins},
    {"penstock_requests_per_second_limit", MetricType::Gauge, "--max_requests_per_second; 0: no limit", &v1::DfResponse::max_requests_per_s},
    {"penstock_throttled_total", MetricType::Counter, "Requests that waited for their turn by that limit", &v1::DfResponse::throttled},
    {"penstock_drafts", MetricType::Gauge, "Tensors that are being written", &v1::DfResponse::drafts},
    {"penstock_lost_tensors", MetricType::Gauge, "Tensors at home here that no node has any more (penstock events names them)", &v1::DfResponse::lost},
    {"penstock_under_replicated_tensors", MetricType::Gauge, "Tensors at home here of which copies are missing", &v1::DfResponse::under_replicated},
    {"penstock_repaired_tensors_total", MetricType::Counter, "Copies made here for others that were lost", &v1::DfResponse::repaired},
    {"penstock_repaired_bytes_total", MetricType::Counter, "Bytes of penstock_repaired_tensors_total", &v1::DfResponse::repaired_bytes},
    {"penstock_spill_limit_bytes", MetricType::Gauge, "The most that the spill directory may take; 0: there is none", &v1::DfResponse::spill_limit_bytes},
    {"penstock_spilled", MetricType::Gauge, "Of penstock_tensors those whose bytes lie in the spill directory", &v1::DfResponse::spilled},
    {"penstock_spilled_bytes", MetricType::Gauge, "Of penstock_tensor_bytes those in the spill directory", &v1::DfResponse::spilled_bytes},
    {"penstock_channels", MetricType::Gauge, "Channels, those included that are closed and still mapped", &v1::DfResponse::channels},
    {"penstock_channel_bytes", MetricType::Gauge, "Memory of channels", &v1::DfResponse::channel_bytes},
    {"penstock_regions", MetricType::Gauge, "Regions, those included that are deleted and still mapped", &v1::DfResponse::regions},
    {"penstock_region_bytes", MetricType::Gauge, "Memory of regions", &v1::DfResponse::region_bytes},
    {"penstock_pins", MetricType::Gauge, "Pins that readers hold", &v1::DfResponse::pins},
    {"penstock_sessions", MetricType::Gauge, "Sessions of clients on this host", &v1::DfResponse::sessions},
    {"penstock_puts_total", MetricType::Counter, "Tensors published", &v1::DfResponse::puts},
    {"penstock_deletes_total", MetricType::Counter, "Tensors deleted", &v1::DfResponse::deletes},
    {"penstock_checksum_errors_total", MetricType::Counter, "Tensors whose bytes were not what their checksum says", &v1::DfResponse::checksum_errors},
    {"penstock_evictions_total", MetricType::Counter, "Tensors evicted to make room", &v1::DfResponse::evictions},
    {"penstock_spills_total", MetricType::Counter, "Tensors written to the spill directory", &v1::DfResponse::spills},
    {"penstock_spill_ins_total", MetricType::Counter, "Tensors that came back from it", &v1::DfResponse::spill_ins},
    {"penstock_expirations_total", MetricType::Counter, "Tensors whose time to live was over", &v1::DfResponse::expirations},
};

ClientMetric Sample(MetricType type, double value, Labels labels) {
  ClientMetric sample;
  sample.label = std::move(labels);
  (type == MetricType::Counter ? sample.counter.value : sample.gauge.value) = value;
  return sample;
}

// One sample per peer.
MetricFamily OfPeers(const v1::NodeInfoResponse& node, const char* name, const char* help, uint64_t (v1::PeerInfo::*value)() const) {
  MetricFamily family{name, help, MetricType::Counter, {}};
  for (const v1::PeerInfo& peer : node.peers()) {
    family.metric.push_back(Sample(family.type, static_cast<double>((peer.*value)()), {{"peer", peer.address()}}));
  }
  return family;
}

// A peer whose lane is not known yet has none.
MetricFamily TransportInfo(const v1::NodeInfoResponse& node) {
  MetricFamily family{"penstock_transport_info", "The lane over which this node reads the peer: rdma, stream or ucx-tcp", MetricType::Gauge, {}};
  for (const v1::PeerInfo& peer : node.peers()) {
    if (!peer.lane().empty()) family.metric.push_back(Sample(MetricType::Gauge, 1, {{"peer", peer.address()}, {"path", peer.lane()}}));
  }
  return family;
}

}  // namespace

class MetricsServer::Collector final : public prometheus::Collectable {
 public:
  explicit Collector(Ask ask) : ask_(std::move(ask)) {}

  std::vector<MetricFamily> Collect() const override {
    const Answers answers = ask_();
    const v1::NodeInfoResponse& node = answers.node;
    std::vector<MetricFamily> families = {
        {"penstock_build_info", "The version of this node, and of UCX", MetricType::Gauge,
         {Sample(MetricType::Gauge, 1, {{"version", node.version()}, {"ucx_version", answers.ucx_version}})}},
        {"penstock_start_time_seconds", "When this node's process began, since 1970", MetricType::Gauge,
         {Sample(MetricType::Gauge, static_cast<double>(node.started_ns()) / 1e9, {})}},
        TransportInfo(node),
        OfPeers(node, "penstock_transport_reads_total", "Reads of the peer's tensors", &v1::PeerInfo::reads),
        OfPeers(node, "penstock_transport_read_bytes_total", "Bytes read of the peer's tensors", &v1::PeerInfo::read_bytes),
    };
    for (const DfMetric& one : kDf) {
      families.push_back({one.name, one.help, one.type, {Sample(one.type, static_cast<double>((answers.df.*one.value)()), {})}});
    }
    if (node.tenant().empty()) return families;
    for (MetricFamily& family : families) {
      for (ClientMetric& sample : family.metric) sample.label.push_back({"tenant", node.tenant()});
    }
    return families;
  }

 private:
  const Ask ask_;
};

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& host, int port, Ask ask) {
  const std::string where = TcpAddress(host, port);
  std::unique_ptr<MetricsServer> server(new MetricsServer);
  server->collector_ = std::make_shared<Collector>(std::move(ask));
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", where, "num_threads", "2", "request_timeout_ms", "2000"});
    server->exposer_->RegisterCollectable(server->collector_);
    const std::vector<int> ports = server->exposer_->GetListeningPorts();
    if (ports.empty()) return absl::UnavailableError(StrCat("listen on ", where, ": no port"));
    server->port_ = ports.front();
    server->address_ = TcpAddress(host, server->port_);
  } catch (const std::exception& error) {  // civetweb's
    return absl::UnavailableError(StrCat("listen on ", where, ": ", error.what()));
  }
  return server;
}

MetricsServer::~MetricsServer() {
  // civetweb sees that it is to stop when somebody connects, else within 2 s.
  std::atomic<bool> stopped{false};
  std::thread caller([&] {
    while (!stopped.load()) {
      const absl::StatusOr<TcpSocket> call = TcpSocket::BeginConnect(address_);
      absl::SleepFor(absl::Milliseconds(5));
    }
  });
  exposer_.reset();
  stopped.store(true);
  caller.join();
}

}  // namespace penstock::server
