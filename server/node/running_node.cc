#include "server/node/running_node.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/rpc/grpc_tls.h"
#include "server/warden/warden_client.h"
#include "transport/memory_limit.h"
#include "transport/monotonic.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::server {

namespace {

// What --memory asks for, less what a cgroup or the host leaves: pages belong to whoever touches them first, and
// populating beyond the limit is a SIGKILL.
uint64_t Budget(const NodeConfig& config, const std::function<void(const std::string&)>& say) {
  constexpr uint64_t kReserve = uint64_t{64} << 20;  // heap, gRPC, catalog
  const absl::StatusOr<MemoryLimit> limit = ReadMemoryLimit();
  if (!limit.ok() || limit->available <= kReserve) return config.memory_bytes;
  const uint64_t room = limit->available - kReserve;
  if (config.memory_bytes <= room) return config.memory_bytes;
  say(StrCat("--memory asks for ", FormatSize(config.memory_bytes), ", but ", limit->source, " leaves ", FormatSize(room), ": using that"));
  return std::max(room, kMinMemoryBytes);
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
absl::StatusOr<std::unique_ptr<UcxTcp>> StartUcxTcp(const NodeConfig& config, RemoteSessions* sessions, const std::function<void(const std::string&)>& say) {
  if (config.ucx_tcp != UcxTcpUse::kOn || config.data_port == kNoTcp) return nullptr;
  absl::StatusOr<std::unique_ptr<UcxTcp>> opened = UcxTcp::Open(config.data_net, sessions);
  if (!opened.ok()) return absl::Status(opened.status().code(), StrCat("--ucx_tcp: ", std::string(opened.status().message())));
  say("--ucx_tcp=on: DANGER: UCX's tcp port lets whoever reaches it write any address of this process");
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
void GiveUpMemory(warden::WardenClient* warden, const Inherited& inherited, Scratch* scratch, const std::string& why, const std::function<void(const std::string&)>& say) {
  say(StrCat("DAMAGED: ", why, ": all tensors that were here are given up, ", inherited.sessions.size(), " sessions end; the next process starts empty"));
  for (const uint64_t session : inherited.sessions) warden->DropSession(session).IgnoreError();
  for (const uint32_t segment : inherited.segments) warden->DropSegment(segment).IgnoreError();
  scratch->member = {};
  std::memset(scratch->given_up, 0, sizeof(scratch->given_up));
  why.copy(scratch->given_up, sizeof(scratch->given_up) - 1);
}

}  // namespace

RunningNode::RunningNode(warden::NodeContext* context, std::function<void(const std::string&)> say)
    : context_(context), config_(*context->config), say_(std::move(say)), scratch_(static_cast<Scratch*>(context->scratch)) {}

absl::Status RunningNode::Start() {
  if (absl::Status s = CheckTlsFiles(config_.tls); !s.ok()) return s;
  if (absl::Status s = OpenStore(); !s.ok()) return s;
  absl::StatusOr<std::unique_ptr<MutableMemory>> changing = MutableMemory::Create(store_.get(), context_->bell_fd);
  if (!changing.ok()) return changing.status();
  changing_ = *std::move(changing);
  recall_.emplace(store_.get());
  remote_.emplace(store_.get(), &*recall_, config_.max_sessions, changing_.get());
  growing_.emplace(changing_->bell_fd());
  remote_->ServeGrowing(&*growing_);
  if (absl::Status s = OpenLanes(); !s.ok()) return s;
  MakeServices();
  if (!config_.etcd.empty()) JoinCluster();
  restart_.emplace(context_->warden.get());
  service_->OnRestart([this] { return restart_->Ask(); });
  TellOfNode();
  if (absl::Status s = StartGrpc(); !s.ok()) return s;
  return StartLocal();
}

absl::Status RunningNode::OpenStore() {
  if (scratch_->memory_bytes == 0) scratch_->memory_bytes = Budget(config_, say_);
  const Inherited inherited = NamesOf(*context_);
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(
      context_, {.memory_bytes = scratch_->memory_bytes, .max_sessions = config_.max_sessions, .max_tensors = config_.max_tensors, .max_pins = config_.max_pins,
                 .huge_pages = config_.huge_pages != HugePages::kOff, .adopt_always = config_.adopt == Adopt::kAlways,
                 .node_id = config_.node_id.empty() ? std::string() : *UuidOf(config_.node_id), .in_cluster = !config_.etcd.empty(),
                 .checksum = config_.checksum == Checksum::kOn, .directory = !config_.etcd.empty(),
                 .spill_dir = config_.spill_dir, .spill_limit = config_.spill_limit, .say = say_});
  if (!store.ok()) {
    if (absl::IsDataLoss(store.status())) GiveUpMemory(context_->warden.get(), inherited, scratch_, std::string(store.status().message()), say_);
    return store.status();
  }
  store_ = *std::move(store);
  for (const std::string& damage : store_->damage()) say_(StrCat("DAMAGED: ", damage));
  if (scratch_->given_up[0] != 0) {
    store_->LogEvent(v1::Event::WARNING, StrCat("the memory of an earlier process could not be read and was given up: ", scratch_->given_up));
    std::memset(scratch_->given_up, 0, sizeof(scratch_->given_up));
  }
  return absl::OkStatus();
}

absl::Status RunningNode::OpenLanes() {
  absl::StatusOr<std::unique_ptr<RdmaMemory>> rdma = absl::NotFoundError("not asked for");
  if (config_.data_port != kNoTcp && config_.MayUseRdma()) rdma = RdmaMemory::Open();  // before there are other threads
  if (config_.data_port != kNoTcp) {
    absl::StatusOr<std::unique_ptr<StreamServer>> listening = StartDataPort(config_, scratch_, &*remote_, changing_->bell_fd());
    if (!listening.ok()) return listening.status();
    data_ = *std::move(listening);
    remote_->OnEnd([this](const LaneToken& token) { data_->Disconnect(token); });
  }
  if (rdma.ok()) {
    rdma_ = *std::move(rdma);
    store_->OnSegmentDrop([this](uint32_t segment) { rdma_->Forget(segment); });
  } else if (!absl::IsNotFound(rdma.status())) {
    say_(StrCat("rdma: ", std::string(rdma.status().message()), "; peers read over the stream lane"));
  }
  absl::StatusOr<std::unique_ptr<UcxTcp>> ucx_tcp = StartUcxTcp(config_, &*remote_, say_);
  if (!ucx_tcp.ok()) return ucx_tcp.status();
  ucx_tcp_ = *std::move(ucx_tcp);
  return absl::OkStatus();
}

void RunningNode::MakeServices() {
  std::vector<std::string> lanes;
  if (data_ != nullptr) lanes.push_back("stream");
  if (rdma_ != nullptr) lanes.push_back("rdma");
  if (ucx_tcp_ != nullptr) lanes.push_back("ucx-tcp");
  const std::string data_address = data_ == nullptr ? std::string() : TcpAddress(config_.data_net, data_->port());
  peer_.emplace(store_.get(), &*remote_, penstock_node_version(),
                PeerService::Lanes{.data_address = data_address, .tls = config_.tls.on(), .rdma = rdma_.get(), .ucx_tcp = ucx_tcp_.get()});
  service_.emplace(store_.get(), &*recall_,
                   NodeFacts{.socket_dir = config_.socket_dir, .grpc_address = "unix:" + config_.GrpcSocketPath(),
                             .version = penstock_node_version(), .warden_pid = context_->warden_pid, .data_address = data_address,
                             .tls = config_.tls.on(), .lanes = lanes, .tenant = config_.tenant,
                             .max_requests_per_second = config_.max_requests_per_second},
                   &*remote_);
  others_.emplace(store_.get(), &*recall_,
                  RemoteStoreOptions{.peers = config_.peers, .in_cluster = !config_.etcd.empty(), .tls = config_.tls, .may_use_rdma = config_.MayUseRdma(),
                                     .why_no_rdma = config_.rdma == Rdma::kOff ? "--rdma=off" : "RDMA is not encrypted, and --tls_cert asks for TLS (--rdma=on allows it)",
                                     .require_rdma = config_.require_transport == RequireTransport::kRdma,
                                     .ucx_tcp = ucx_tcp_.get(),
                                     .new_names_at_peers = config_.new_names == NewNames::kPeers,
                                     .channels = changing_.get(),
                                     .growing = data_ != nullptr ? &*growing_ : nullptr,
                                     .offers = data_ != nullptr ? remote_->offers() : nullptr,
                                     .repair_bytes_per_second = config_.repair_bandwidth});
}

void RunningNode::JoinCluster() {
  cluster_ = std::make_unique<Cluster>(config_, &scratch_->member, store_.get(), &*others_, say_);
  remote_->UseDirectory({.publish = [raw = others_->cluster_puts()](const std::shared_ptr<Session>& session, const Placed& draft) {
                           return raw->PublishNow(session, {{draft.record, draft.record_seq}})[0];
                         },
                         .fetch = [this](const std::string& name, uint64_t version) { return others_->GetNow(name, version); }});
  service_->UseDirectory(others_->names(), others_->cluster_puts(), others_->events());
  service_->OnDf([this](v1::DfResponse* df) { others_->AddDf(df); });
  if (data_ != nullptr) others_->CountSentBy([this] { return data_->counts().sent_bytes; });
}

void RunningNode::TellOfNode() {
  service_->OnNodeInfo([this](v1::NodeInfoResponse* response) {
    others_->AddPeers(response);
    if (const Membership* membership = member_.load()) membership->Tell(response->mutable_cluster());
    if (const int port = tcp_port_.load(); port > 0) response->set_tcp_address(TcpAddress(config_.host, port));
    if (const int port = http_port_.load(); port > 0) response->set_http_address(TcpAddress(config_.http_net, port));
  });
}

// For other hosts, and for the CLI. Then this node is told to the cluster.
absl::Status RunningNode::StartGrpc() {
  absl::StatusOr<std::unique_ptr<GrpcServer>> grpc = GrpcServer::Start(
      &*service_, data_ != nullptr ? &*peer_ : nullptr,
      {.unix_socket = config_.GrpcSocketPath(), .socket_mode = config_.SocketFileMode(), .host = config_.host,
       .port = scratch_->grpc_port != 0 ? scratch_->grpc_port : config_.grpc_port, .tls = config_.tls, .directory = cluster_ != nullptr ? cluster_->link() : nullptr});
  if (!grpc.ok()) return grpc.status();
  grpc_ = *std::move(grpc);
  scratch_->grpc_port = grpc_->port();
  tcp_port_.store(grpc_->port());
  if (cluster_ != nullptr) {
    cluster_->Join(TcpAddress(config_.advertise, grpc_->port()));
    others_->OnDrain([this](const std::string& id, bool draining) { return cluster_->SetDraining(id, draining); });
    others_->OnForget([this](const std::string& id) { return cluster_->Forget(id); });
  }
  member_.store(cluster_ == nullptr ? nullptr : &cluster_->membership());
  return absl::OkStatus();
}

// For clients on this host, and for those that watch.
absl::Status RunningNode::StartLocal() {
  if (context_->generation > 1) AwaitView(cluster_ == nullptr ? nullptr : &cluster_->membership());
  absl::StatusOr<std::unique_ptr<RingServer>> rings = RingServer::Start(&*service_, &*others_);
  if (!rings.ok()) return rings.status();
  rings_ = *std::move(rings);
  others_->OnDone([this](uint64_t key) { rings_->Wake(key); });
  store_->OnChange([this](uint64_t name_hash) { rings_->Wake(name_hash); });
  absl::StatusOr<std::unique_ptr<ControlServer>> control =
      ControlServer::Start({.store = store_.get(), .rings = rings_.get(), .changing = changing_.get(), .mirrors = others_->channels()},
                           context_->fd_listener, "unix:" + config_.GrpcSocketPath());
  if (!control.ok()) return control.status();
  control_ = *std::move(control);
  store_->ShowIndex();
  absl::StatusOr<std::unique_ptr<MetricsServer>> metrics = StartMetrics(config_, scratch_, &*service_);
  if (!metrics.ok()) return metrics.status();
  metrics_ = *std::move(metrics);
  if (metrics_ != nullptr) http_port_.store(metrics_->port());
  maintenance_.emplace(store_.get(), &*remote_);
  return absl::OkStatus();
}

absl::Status RunningNode::Run(const sigset_t& stop_signals) {
  const bool restarted = context_->generation > 1;  // it is a member already, or will be
  const absl::StatusOr<bool> stopped = restarted ? false : WaitToJoin(stop_signals);
  if (stopped.ok() && !*stopped) {
    TellReady();
    int signal_number = 0;
    sigwait(&stop_signals, &signal_number);
  }
  if (restart_->wanted()) HandOver();
  Stop();
  return stopped.status();
}

// Until this node is a member, or a signal to stop came (true), or it can be none.
absl::StatusOr<bool> RunningNode::WaitToJoin(const sigset_t& stop_signals) const {
  constexpr timespec kTick{.tv_sec = 0, .tv_nsec = 20'000'000};
  while (membership() != nullptr && !membership()->now().serving) {
    if (absl::Status s = membership()->Failed(); !s.ok()) return s;
    if (sigtimedwait(&stop_signals, nullptr, &kTick) > 0) return true;
  }
  return false;
}

void RunningNode::TellReady() const {
  const warden::NodeContext& context = *context_;
  const int port = grpc_->port();
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

// Ends the process for the next one. What is answered is answered whole; what is not lies in the rings, and the next process answers
// it, as after a death. So nothing else is stopped: to break off what is under way for such a request would be to answer it. Calls by
// gRPC end as UNAVAILABLE, and those who read over the data port try again.
void RunningNode::HandOver() {
  control_->Stop();
  rings_->Stop();
  fflush(nullptr);
  std::_Exit(0);
}

void RunningNode::Stop() {
  member_.store(nullptr);
  metrics_.reset();
  if (cluster_ != nullptr) cluster_->Stop();  // first: the others need not find out
  recall_->Stop();
  grpc_->Stop();
  if (data_ != nullptr) data_->Stop();
  control_->Stop();
  others_->Stop();
  rings_->Stop();
  store_->StopWork();
  store_->OnSegmentDrop({});
}

}  // namespace penstock::server
