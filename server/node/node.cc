// The node process: what libpenstock_node.so runs in the child that the warden forked.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/control/control_server.h"
#include "server/cluster/cluster.h"
#include "server/metrics/metrics_server.h"
#include "server/penstockd/config.h"
#include "server/ring/ring_server.h"
#include "server/node/restart.h"
#include "server/remote/rdma_memory.h"
#include "server/remote/remote_sessions.h"
#include "server/remote/remote_store.h"
#include "server/remote/ucx_tcp.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/grpc_tls.h"
#include "server/rpc/peer_service.h"
#include "server/rpc/store_service.h"
#include "server/store/store.h"
#include "server/warden/node_abi.h"
#include "server/warden/warden_client.h"
#include "transport/memory_limit.h"
#include "transport/monotonic.h"
#include "transport/stream/stream_server.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::server {

namespace {

// In NodeContext::scratch: what the next node process must know.
struct Scratch {
  int32_t grpc_port;       // chosen by the first node when --grpc_port=0; 0 = not chosen yet
  int32_t data_port;       // likewise
  int32_t http_port;       // likewise
  uint64_t memory_bytes;   // the budget, fixed by the first node
  Membership::Kept member;
  char given_up[512];      // why an earlier node process gave up the memory that it found; told by the next one
};
static_assert(sizeof(Scratch) <= 4096);

void Say(const std::string& line) { fprintf(stderr, "penstockd: %s\n", line.c_str()); }

// Expiry, reclaiming and the like, until the node stops. Wakes when something changed or is due, so an idle node sleeps.
class Maintenance {
 public:
  Maintenance(Store* store, RemoteSessions* remote) : store_(store), thread_([this, store, remote] {
    while (!stopping_.load()) {
      const uint64_t epoch = store->change_epoch();
      remote->Expire(MonotonicNow());
      const absl::Duration due = store->Maintain();
      store->WaitForChange(epoch, std::min(due, remote->count() > 0 ? kBetween : kLongest));
      if (store->change_epoch() != epoch && !stopping_.load()) absl::SleepFor(std::min(due, kBetween));  // more will follow
    }
  }) {}
  ~Maintenance() {
    stopping_.store(true);
    store_->LogEvent(v1::Event::NODE, "node is stopping");  // a change
    thread_.join();
  }

 private:
  static constexpr absl::Duration kBetween = absl::Milliseconds(100);
  static constexpr absl::Duration kLongest = absl::Seconds(30);
  Store* const store_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

// What --memory asks for, less what a cgroup or the host leaves: pages belong to whoever touches them first, and
// populating beyond the limit is a SIGKILL.
uint64_t Budget(const NodeConfig& config) {
  constexpr uint64_t kReserve = uint64_t{64} << 20;  // heap, gRPC, catalog
  const absl::StatusOr<MemoryLimit> limit = ReadMemoryLimit();
  if (!limit.ok() || limit->available <= kReserve) return config.memory_bytes;
  const uint64_t room = limit->available - kReserve;
  if (config.memory_bytes <= room) return config.memory_bytes;
  Say(StrCat("--memory asks for ", FormatSize(config.memory_bytes), ", but ", limit->source, " leaves ", FormatSize(room), ": using that"));
  return std::max(room, kMinMemoryBytes);
}

sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

void TellReady(const warden::NodeContext& context, int port) {
  if (context.ready_fd < 0) return;
  const std::string line = StrCat("{\"socket_dir\": \"", context.config->socket_dir, "\", \"grpc_port\": ", port, ", \"pid\": ", context.warden_pid, "}\n");
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = write(context.ready_fd, line.data() + done, line.size() - done);
    if (n <= 0) break;  // nobody reads it
    done += n;
  }
  close(context.ready_fd);
}

// On the port that an earlier node process had, if there was one.
absl::StatusOr<std::unique_ptr<StreamServer>> StartDataPort(const NodeConfig& config, Scratch* scratch, RemoteSessions* sessions, int bell_fd) {
  absl::StatusOr<std::unique_ptr<StreamServer>> server =
      StreamServer::Start({.host = config.data_net, .port = scratch->data_port != 0 ? scratch->data_port : config.data_port,
                           .grants = sessions, .bell_fd = bell_fd, .tls = config.tls.on()});
  if (!server.ok()) {
    return absl::Status(server.status().code(), StrCat("data port: ", std::string(server.status().message()), " (--data_port, --data_net)"));
  }
  scratch->data_port = (*server)->port();
  return server;
}

// Null: nobody asked for it, or there is no data port.
absl::StatusOr<std::unique_ptr<UcxTcp>> StartUcxTcp(const NodeConfig& config, RemoteSessions* sessions) {
  if (config.ucx_tcp != UcxTcpUse::kOn || config.data_port == kNoTcp) return nullptr;
  absl::StatusOr<std::unique_ptr<UcxTcp>> opened = UcxTcp::Open(config.data_net, sessions);
  if (!opened.ok()) return absl::Status(opened.status().code(), StrCat("--ucx_tcp: ", std::string(opened.status().message())));
  Say("--ucx_tcp=on: DANGER: UCX's tcp port lets whoever reaches it write any address of this process");
  return opened;
}

// Null: nobody asked for it. On the port that an earlier node process had, if there was one.
absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const NodeConfig& config, Scratch* scratch, StoreService* service) {
  if (config.http_port == kNoTcp) return nullptr;
  auto ask = [service] {
    MetricsServer::Answers answers;
    (void)service->NodeInfo({}, &answers.node);  // these two cannot fail
    (void)service->Df({}, &answers.df);
#ifdef PENSTOCK_HAS_UCX
    answers.ucx_version = UcxVersion();
#endif
    return answers;
  };
  absl::StatusOr<std::unique_ptr<MetricsServer>> server =
      MetricsServer::Start(config.http_net, scratch->http_port != 0 ? scratch->http_port : config.http_port, std::move(ask));
  if (!server.ok()) return absl::Status(server.status().code(), StrCat("HTTP: ", std::string(server.status().message()), " (--http_port, --http_net)"));
  scratch->http_port = (*server)->port();
  return server;
}

// Requests that an earlier process left in the rings are about names that may be at home elsewhere: they wait for the others to be known.
void AwaitView(const Membership* membership) {
  const absl::Time end = MonotonicNow() + absl::Seconds(1);  // without etcd exact versions are served all the same
  while (membership != nullptr && membership->now().term == 0 && MonotonicNow() < end) absl::SleepFor(absl::Milliseconds(1));
}

// Until this node is a member, or a signal to stop came (true), or it can be none.
absl::StatusOr<bool> WaitToJoin(const Membership* membership, const sigset_t& stop_signals) {
  constexpr timespec kTick{.tv_sec = 0, .tv_nsec = 20'000'000};
  while (membership != nullptr && !membership->now().serving) {
    if (absl::Status s = membership->Failed(); !s.ok()) return s;
    if (sigtimedwait(&stop_signals, nullptr, &kTick) > 0) return true;
  }
  return false;
}

struct Inherited {
  std::vector<uint32_t> segments;
  std::vector<uint64_t> sessions;
};
Inherited NamesOf(const warden::NodeContext& context) {
  Inherited inherited;
  for (const warden::Segment& segment : context.segments) inherited.segments.push_back(segment.id);
  for (const warden::InheritedSession& session : context.sessions) inherited.sessions.push_back(session.id);
  return inherited;
}

// A catalog whose header is broken says nothing of what is where. The next process begins anew, in another life of this node's memory;
// clients see their sessions end, and what they have mapped stays theirs.
void GiveUpMemory(warden::WardenClient* warden, const Inherited& inherited, Scratch* scratch, const std::string& why) {
  Say(StrCat("DAMAGED: ", why, ": all tensors that were here are given up, ", inherited.sessions.size(), " sessions end; the next process starts empty"));
  for (const uint64_t session : inherited.sessions) warden->DropSession(session).IgnoreError();
  for (const uint32_t segment : inherited.segments) warden->DropSegment(segment).IgnoreError();
  scratch->member = {};
  std::memset(scratch->given_up, 0, sizeof(scratch->given_up));
  why.copy(scratch->given_up, sizeof(scratch->given_up) - 1);
}

// Ends the process for the next one. What is answered is answered whole; what is not lies in the rings, and the next process answers
// it, as after a death. So nothing else is stopped: to break off what is under way for such a request would be to answer it. Calls by
// gRPC end as UNAVAILABLE, and those who read over the data port try again.
[[noreturn]] void HandOver(RingServer* rings, ControlServer* control) {
  control->Stop();
  rings->Stop();
  fflush(nullptr);
  std::_Exit(0);
}

absl::Status RunNode(warden::NodeContext* context) {
  // For gRPC's locks: Debian's Abseil looks for lock cycles at every lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const sigset_t stop_signals = BlockStopSignals();
  const NodeConfig& config = *context->config;
  if (absl::Status s = CheckTlsFiles(config.tls); !s.ok()) return s;
  auto* scratch = static_cast<Scratch*>(context->scratch);
  if (scratch->memory_bytes == 0) scratch->memory_bytes = Budget(config);
  const Inherited inherited = NamesOf(*context);
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(
      context, {.memory_bytes = scratch->memory_bytes, .max_sessions = config.max_sessions, .max_tensors = config.max_tensors, .max_pins = config.max_pins,
                .huge_pages = config.huge_pages != HugePages::kOff, .adopt_always = config.adopt == Adopt::kAlways,
                .node_id = config.node_id.empty() ? std::string() : *UuidOf(config.node_id), .in_cluster = !config.etcd.empty(),
                .checksum = config.checksum == Checksum::kOn, .directory = !config.etcd.empty(),
                .spill_dir = config.spill_dir, .spill_limit = config.spill_limit, .say = Say});
  if (!store.ok()) {
    if (absl::IsDataLoss(store.status())) GiveUpMemory(context->warden.get(), inherited, scratch, std::string(store.status().message()));
    return store.status();
  }
  for (const std::string& damage : (*store)->damage()) Say(StrCat("DAMAGED: ", damage));
  if (scratch->given_up[0] != 0) {
    (*store)->LogEvent(v1::Event::WARNING, StrCat("the memory of an earlier process could not be read and was given up: ", scratch->given_up));
    std::memset(scratch->given_up, 0, sizeof(scratch->given_up));
  }
  const absl::StatusOr<std::unique_ptr<MutableMemory>> changing = MutableMemory::Create(store->get(), context->bell_fd);
  if (!changing.ok()) return changing.status();
  LeaseRecall recall(store->get());
  RemoteSessions remote(store->get(), &recall, config.max_sessions, changing->get());
  GrowingCopies growing((*changing)->bell_fd());
  remote.ServeGrowing(&growing);
  const bool may_rdma = config.MayUseRdma();
  absl::StatusOr<std::unique_ptr<RdmaMemory>> rdma = absl::NotFoundError("not asked for");
  if (config.data_port != kNoTcp && may_rdma) rdma = RdmaMemory::Open();  // before there are other threads
  std::unique_ptr<StreamServer> data;
  std::string data_address;
  if (config.data_port != kNoTcp) {
    absl::StatusOr<std::unique_ptr<StreamServer>> listening = StartDataPort(config, scratch, &remote, (*changing)->bell_fd());
    if (!listening.ok()) return listening.status();
    data = *std::move(listening);
    data_address = TcpAddress(config.data_net, data->port());
    remote.OnEnd([raw = data.get()](const LaneToken& token) { raw->Disconnect(token); });
  }
  std::vector<std::string> lanes;
  if (data != nullptr) lanes.push_back("stream");
  if (rdma.ok()) {
    lanes.push_back("rdma");
    (*store)->OnSegmentDrop([raw = rdma->get()](uint32_t segment) { raw->Forget(segment); });
  } else if (!absl::IsNotFound(rdma.status())) {
    Say(StrCat("rdma: ", std::string(rdma.status().message()), "; peers read over the stream lane"));
  }
  const absl::StatusOr<std::unique_ptr<UcxTcp>> ucx_tcp = StartUcxTcp(config, &remote);
  if (!ucx_tcp.ok()) return ucx_tcp.status();
  if (*ucx_tcp != nullptr) lanes.push_back("ucx-tcp");
  PeerService peer(store->get(), &remote, penstock_node_version(),
                   {.data_address = data_address, .tls = config.tls.on(), .rdma = rdma.ok() ? rdma->get() : nullptr, .ucx_tcp = ucx_tcp->get()});
  StoreService service(store->get(), &recall, {.socket_dir = config.socket_dir, .grpc_address = "unix:" + config.GrpcSocketPath(),
                                      .version = penstock_node_version(), .warden_pid = context->warden_pid, .data_address = data_address,
                                      .tls = config.tls.on(), .lanes = lanes, .tenant = config.tenant,
                                      .max_requests_per_second = config.max_requests_per_second},
                       &remote);
  RemoteStore others(store->get(), &recall,
                     {.peers = config.peers, .in_cluster = !config.etcd.empty(), .tls = config.tls, .may_use_rdma = may_rdma,
                      .why_no_rdma = config.rdma == Rdma::kOff ? "--rdma=off" : "RDMA is not encrypted, and --tls_cert asks for TLS (--rdma=on allows it)",
                      .require_rdma = config.require_transport == RequireTransport::kRdma,
                      .ucx_tcp = ucx_tcp->get(),
                      .new_names_at_peers = config.new_names == NewNames::kPeers,
                      .channels = changing->get(),
                      .growing = data != nullptr ? &growing : nullptr,
                      .offers = data != nullptr ? remote.offers() : nullptr,
                      .repair_bytes_per_second = config.repair_bandwidth});
  std::atomic<int> tcp_port{0}, http_port{0};
  std::unique_ptr<Cluster> cluster;
  if (!config.etcd.empty()) {
    cluster = std::make_unique<Cluster>(config, &scratch->member, store->get(), &others, Say);
    remote.UseDirectory({.publish = [raw = others.cluster_puts()](const std::shared_ptr<Session>& session, const Placed& draft) {
                           return raw->PublishNow(session, {{draft.record, draft.record_seq}})[0];
                         },
                         .fetch = [raw = &others](const std::string& name, uint64_t version) { return raw->GetNow(name, version); }});
    service.UseDirectory(others.names(), others.cluster_puts(), others.events());
    service.OnDf([&others](v1::DfResponse* df) { others.AddDf(df); });
    if (data != nullptr) others.CountSentBy([raw = data.get()] { return raw->counts().sent_bytes; });
  }
  Restart restart(context->warden.get());
  service.OnRestart([&restart] { return restart.Ask(); });
  std::atomic<const Membership*> member{nullptr};
  service.OnNodeInfo([&](v1::NodeInfoResponse* response) {
    others.AddPeers(response);
    if (const Membership* membership = member.load()) membership->Tell(response->mutable_cluster());
    if (const int port = tcp_port.load(); port > 0) response->set_tcp_address(TcpAddress(config.host, port));
    if (const int port = http_port.load(); port > 0) response->set_http_address(TcpAddress(config.http_net, port));
  });
  const int port = scratch->grpc_port != 0 ? scratch->grpc_port : config.grpc_port;
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
      GrpcServer::Start(&service, data != nullptr ? &peer : nullptr, {.unix_socket = config.GrpcSocketPath(), .socket_mode = config.SocketFileMode(), .host = config.host, .port = port, .tls = config.tls,
                         .directory = cluster != nullptr ? cluster->link() : nullptr});
  if (!grpc.ok()) return grpc.status();
  scratch->grpc_port = (*grpc)->port();
  tcp_port.store((*grpc)->port());
  const Membership* membership = nullptr;
  if (cluster != nullptr) {
    cluster->Join(TcpAddress(config.advertise, (*grpc)->port()));
    membership = &cluster->membership();
    others.OnDrain([raw = cluster.get()](const std::string& id, bool draining) { return raw->SetDraining(id, draining); });
    others.OnForget([raw = cluster.get()](const std::string& id) { return raw->Forget(id); });
  }
  member.store(membership);
  const bool restarted = context->generation > 1;
  if (restarted) AwaitView(membership);
  absl::StatusOr<std::unique_ptr<RingServer>> rings = RingServer::Start(&service, &others);
  if (!rings.ok()) return rings.status();
  others.OnDone([raw = rings->get()](uint64_t key) { raw->Wake(key); });
  (*store)->OnChange([raw = rings->get()](uint64_t name_hash) { raw->Wake(name_hash); });
  absl::StatusOr<std::unique_ptr<ControlServer>> control =
      ControlServer::Start({.store = store->get(), .rings = rings->get(), .changing = changing->get(), .mirrors = others.channels()},
                           context->fd_listener, "unix:" + config.GrpcSocketPath());
  if (!control.ok()) return control.status();
  (*store)->ShowIndex();
  absl::StatusOr<std::unique_ptr<MetricsServer>> metrics = StartMetrics(config, scratch, &service);
  if (!metrics.ok()) return metrics.status();
  if (*metrics != nullptr) http_port.store((*metrics)->port());
  Maintenance maintenance(store->get(), &remote);
  const absl::StatusOr<bool> stopped = WaitToJoin(restarted ? nullptr : membership, stop_signals);
  if (stopped.ok() && !*stopped) {
    TellReady(*context, (*grpc)->port());
    int signal_number = 0;
    sigwait(&stop_signals, &signal_number);
  }
  if (restart.wanted()) HandOver(rings->get(), control->get());
  member.store(nullptr);
  metrics->reset();
  if (cluster != nullptr) cluster->Stop();  // first: the others need not find out
  recall.Stop();
  (*grpc)->Stop();
  if (data != nullptr) data->Stop();
  (*control)->Stop();
  others.Stop();
  (*rings)->Stop();
  (*store)->StopWork();
  (*store)->OnSegmentDrop({});
  return stopped.status();
}

}  // namespace

}  // namespace penstock::server

extern "C" int penstock_node_main(penstock::warden::NodeContext* context) {
  const absl::Status status = penstock::server::RunNode(context);
  if (status.ok()) return 0;
  penstock::server::Say(penstock::StrCat("node: ", std::string(status.message())));
  return 1;
}
