#include "server/remote/peer_node.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "proto/strcat.h"
#include "server/rpc/grpc_tls.h"
#include "transport/fault_point.h"
#include "transport/lane/fallback_lane.h"
#include "transport/monotonic.h"
#include "transport/stream/stream_lane.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kDown = absl::Milliseconds(500);  // how long a peer that failed is not asked again

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address, const TlsFiles& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // how long connecting may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, PeerCredentialsOf(tls), arguments);
}

}  // namespace

PeerNode::PeerNode(std::string address, Store* store, const TlsFiles& tls, Lanes lanes)
    : PeerNode(address, store, tls, std::move(lanes), NewChannel(address, tls)) {}

PeerNode::PeerNode(std::string address, Store* store, const TlsFiles& tls, Lanes lanes, const std::shared_ptr<grpc::Channel>& channel)
    : address_(std::move(address)), tls_(tls.on()), can_(std::move(lanes)), peer_(v1::Peer::NewStub(channel)),
      store_(v1::Store::NewStub(channel)), leases_(store), why_(can_.no_rdma) {}

void PeerNode::Prepare(grpc::ClientContext* context, int seconds) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
}

void PeerNode::Prepare(grpc::ClientContext* context, const std::string& token, int seconds) {
  Prepare(context, seconds);
  context->AddMetadata("penstock-session-bin", token);
}

void PeerNode::SetAbsent(std::string why) {
  std::lock_guard lock(mutex_);
  absent_ = std::move(why);
}

bool PeerNode::absent() const {
  std::lock_guard lock(mutex_);
  return !absent_.empty();
}

absl::Status PeerNode::CheckUp() {
  std::lock_guard lock(mutex_);
  if (!absent_.empty()) return absl::UnavailableError(absent_);
  if (MonotonicNow() >= down_until_) return absl::OkStatus();
  return absl::UnavailableError(down_why_);
}

absl::Status PeerNode::Judge(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()), StrCat("node ", address_, ": ", status.error_message()));
  if (absl::IsUnavailable(out) || absl::IsDeadlineExceeded(out)) {
    out = absl::UnavailableError(out.message());
    std::lock_guard lock(mutex_);
    down_until_ = MonotonicNow() + kDown;
    down_why_ = std::string(out.message());
  }
  return out;
}

absl::Status PeerNode::Decode(const v1::Status& status) { return absl::Status(static_cast<absl::StatusCode>(status.code()), status.message()); }

absl::StatusOr<v1::OpenSessionResponse> PeerNode::OpenSessionThere(const std::string& label, const std::string& rdma_version) {
  if (absl::Status s = CheckUp(); !s.ok()) return s;
  v1::OpenSessionRequest request;
  request.set_label(label);
  request.set_rdma_version(rdma_version);
  v1::OpenSessionResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  if (absl::Status s = Judge(peer_->OpenSession(&context, request, &response)); !s.ok()) return s;
  if (response.token().size() != sizeof(LaneToken) || response.lanes_size() == 0 || response.lanes(0).name() != "stream") {
    return absl::UnavailableError(StrCat("node ", address_, ": offers no lane that this node knows"));
  }
  if (tls_ && !response.lanes(0).tls()) {  // cannot be, from a node that is what it says
    return absl::UnavailableError(StrCat("node ", address_, ": its data port speaks no TLS, this node does nothing else (--tls_cert)"));
  }
  return response;
}

absl::StatusOr<PeerNode::Open> PeerNode::Session() {
  std::lock_guard one(opening_);
  Open open;
  {
    std::lock_guard lock(mutex_);
    open = open_;
  }
  // One that nothing was pinned in was not renewed, and could be over before a transfer is.
  if (!open.token.empty() && MonotonicNow() > open.deadline - open.ttl / 2) {
    RenewNow(open.token);
    std::lock_guard lock(mutex_);
    open = open_;
  }
  if (!open.token.empty()) return open;
  const absl::Time asked = MonotonicNow();
  const absl::StatusOr<v1::OpenSessionResponse> opened = OpenSessionThere("node", can_.rdma != nullptr ? can_.rdma->version() : std::string());
  if (!opened.ok()) return opened.status();
  const v1::OpenSessionResponse& response = *opened;
  open = {.token = response.token()};
  if (response.node_id().size() != open.id.size()) return absl::UnavailableError(StrCat("node ", address_, ": does not tell its uuid"));
  std::copy(response.node_id().begin(), response.node_id().end(), open.id.begin());
  open.ttl = absl::Nanoseconds(static_cast<int64_t>(response.ttl_ns()));
  open.deadline = asked + open.ttl;
  OpenLanes(response, &open);
  std::lock_guard lock(mutex_);
  open_ = open;
  uint8_t id[16];
  std::copy(open.id.begin(), open.id.end(), id);
  uuid_ = UuidText(id);
  return open;
}

namespace {

// Null: the peer does not offer it.
const v1::Lane* Offered(const v1::OpenSessionResponse& response, std::string_view name) {
  const auto it = std::find_if(response.lanes().begin(), response.lanes().end(), [name](const v1::Lane& lane) { return lane.name() == name; });
  return it == response.lanes().end() ? nullptr : &*it;
}

std::string UnlikeUcx(const std::string& here, const std::string& there) { return StrCat("UCX ", here, " here, ", there, " there"); }

}  // namespace

// The best that both ends have, and why it is not a faster one.
void PeerNode::OpenLanes(const v1::OpenSessionResponse& response, Open* open) {
  std::string why = OpenRdmaLane(response, open);
  std::string no_ucx_tcp = OpenTcpLane(response, open);
  if (open->rdma == nullptr && !no_ucx_tcp.empty()) why += StrCat("; ucx-tcp: ", no_ucx_tcp);
  std::lock_guard lock(mutex_);
  lane_ = (open->rdma != nullptr ? open->rdma : open->lane)->name();
  why_ = std::move(why);
}

std::string PeerNode::OpenRdmaLane(const v1::OpenSessionResponse& response, Open* open) const {
  if (can_.rdma == nullptr) return can_.no_rdma;
  const v1::Lane* const offered = Offered(response, "rdma");
  if (offered == nullptr) return "the peer offers no RDMA";
  if (offered->version() != can_.rdma->version()) return UnlikeUcx(can_.rdma->version(), offered->version());
  open->blocks = std::make_shared<GrantedBlocks>();
  absl::StatusOr<std::shared_ptr<Lane>> lane = can_.rdma->NewLane(offered->worker(), open->blocks);
  if (!lane.ok()) return std::string(lane.status().message());
  open->rdma = *std::move(lane);
  return {};
}

std::string PeerNode::OpenTcpLane(const v1::OpenSessionResponse& response, Open* open) const {
  LaneToken token{};
  std::copy(response.token().begin(), response.token().end(), token.begin());
  auto stream = std::make_unique<StreamLane>(StreamLaneOptions{.address = response.lanes(0).address(), .token = token, .tls = response.lanes(0).tls()});
  const v1::Lane* const offered = Offered(response, "ucx-tcp");
  if (can_.ucx_tcp != nullptr && offered != nullptr && offered->version() == UcxTcp::version()) {
    open->lane = std::make_shared<FallbackLane>(can_.ucx_tcp->NewLane(offered->worker(), token), std::move(stream));
    return {};
  }
  open->lane = std::move(stream);
  if (can_.ucx_tcp == nullptr) return {};  // nobody asked for it
  return offered == nullptr ? "the peer does not offer it" : UnlikeUcx(UcxTcp::version(), offered->version());
}

void PeerNode::Forget(const std::string& token) {
  std::lock_guard lock(mutex_);
  if (open_.token == token) open_ = {};
  owed_.erase(token);
}

void PeerNode::Count(const std::string& token, int more) {
  std::lock_guard lock(mutex_);
  if (open_.token == token) open_.pins += more;
}

void PeerNode::TakeLease(const Found& found, const Published& copy) {
  if (found.lease <= absl::ZeroDuration()) return;
  {
    std::lock_guard lock(mutex_);
    if (stopping_.load() || open_.token != found.token) return;
    leased_until_ = std::max(leased_until_, found.asked + found.lease);
    if (!hears_recalls_.joinable()) hears_recalls_ = std::thread([this] { HearRecalls(); });
  }
  leased_.notify_one();
  leases_.Take(found.info.name(), copy, found.asked, found.lease);
}

// A home that does not hear that a recall was obeyed, for whatever reason, waits until the leases are over.
void PeerNode::HearRecalls() {
  std::string token;
  uint64_t done = 0;
  std::unique_lock lock(mutex_);
  while (!stopping_.load()) {
    if (open_.token.empty() || MonotonicNow() >= leased_until_) {
      leased_.wait(lock);
      continue;
    }
    if (token != open_.token) {
      token = open_.token;
      done = 0;
    }
    v1::AwaitRecallsRequest request;
    request.set_done(done);
    v1::AwaitRecallsResponse response;
    grpc::ClientContext context;
    Prepare(&context, token);
    hearing_ = &context;
    lock.unlock();
    const bool heard = peer_->AwaitRecalls(&context, request, &response).ok();
    if (heard) {
      if (response.names_size() > 0) PENSTOCK_FAULT_POINT("node.lease.heard");
      leases_.Obey({response.names().begin(), response.names().end()});
      if (response.names_size() > 0) PENSTOCK_FAULT_POINT("node.lease.obeyed");
    } else {
      leases_.EndAll();
    }
    lock.lock();
    hearing_ = nullptr;
    if (heard) {
      done = response.last();
    } else {
      leased_.wait_for(lock, std::chrono::milliseconds(50));
    }
  }
}

void PeerNode::Stop() {
  std::thread hears;
  {
    std::lock_guard lock(mutex_);
    stopping_.store(true);
    if (hearing_ != nullptr) hearing_->TryCancel();
    hears.swap(hears_recalls_);
  }
  leased_.notify_all();
  if (hears.joinable()) hears.join();
}

std::string PeerNode::uuid() const {
  std::lock_guard lock(mutex_);
  return uuid_;
}

void PeerNode::Tell(v1::PeerInfo* info) const {
  std::lock_guard lock(mutex_);
  info->set_address(address_);
  if (!open_.token.empty()) info->set_node_uuid(uuid_);
  if (MonotonicNow() < down_until_) info->set_error(down_why_);
  info->set_lane(lane_);
  info->set_why(why_);
  info->set_reads(reads_);
  info->set_read_bytes(read_bytes_);
}

void PeerNode::Renew() {
  std::string token;
  {
    std::lock_guard lock(mutex_);
    if (open_.pins == 0 && !owed_.contains(open_.token)) return;
    token = open_.token;
  }
  RenewNow(token);
}

void PeerNode::RenewNow(const std::string& token) {
  v1::RenewResponse response;
  grpc::ClientContext context;
  Prepare(&context, token);
  const absl::Time asked = MonotonicNow();
  const absl::Status renewed = Judge(peer_->Renew(&context, {}, &response));
  if (absl::IsPermissionDenied(renewed)) return Forget(token);
  if (!renewed.ok()) return;
  {
    std::lock_guard lock(mutex_);
    if (open_.token == token) open_.deadline = asked + open_.ttl;
  }
  GiveBackOwed(token);
}

}  // namespace penstock::server
