#include "server/remote/peer_node.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "proto/strcat.h"
#include "transport/monotonic.h"
#include "transport/stream/stream_lane.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kDown = absl::Milliseconds(500);  // how long a peer that failed is not asked again
constexpr uint64_t kSlowestBytesPerSecond = 10'000'000;

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

PeerNode::PeerNode(std::string address) : PeerNode(address, NewChannel(address)) {}

PeerNode::PeerNode(std::string address, const std::shared_ptr<grpc::Channel>& channel)
    : address_(std::move(address)), peer_(v1::Peer::NewStub(channel)), store_(v1::Store::NewStub(channel)) {}

void PeerNode::Prepare(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kCallSeconds));
}

absl::Status PeerNode::CheckUp() {
  std::lock_guard lock(mutex_);
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

absl::StatusOr<PeerNode::Open> PeerNode::Session() {
  std::lock_guard one(opening_);
  {
    std::lock_guard lock(mutex_);
    if (!open_.token.empty()) return open_;
  }
  if (absl::Status s = CheckUp(); !s.ok()) return s;  // who waited for the lock need not find out again
  v1::OpenSessionRequest request;
  request.set_label("node");
  v1::OpenSessionResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  if (absl::Status s = Judge(peer_->OpenSession(&context, request, &response)); !s.ok()) return s;
  LaneToken token{};
  if (response.token().size() != token.size() || response.lanes_size() == 0 || response.lanes(0).name() != "stream") {
    return absl::UnavailableError(StrCat("node ", address_, ": offers no lane that this node knows"));
  }
  std::copy(response.token().begin(), response.token().end(), token.begin());
  std::lock_guard lock(mutex_);
  open_ = {response.token(), std::make_shared<StreamLane>(StreamLaneOptions{.address = response.lanes(0).address(), .token = token}), 0};
  return open_;
}

void PeerNode::Forget(const std::string& token) {
  std::lock_guard lock(mutex_);
  if (open_.token == token) open_ = {};
}

absl::StatusOr<PeerNode::Found> PeerNode::Locate(std::string_view name, uint64_t version) {
  for (int attempt = 0;; ++attempt) {
    if (absl::Status s = CheckUp(); !s.ok()) return s;
    const absl::StatusOr<Open> session = Session();
    if (!session.ok()) return session.status();
    v1::LocateRequest request;
    v1::TensorRef* item = request.add_items();
    item->set_name(std::string(name));
    item->set_version(version);
    v1::LocateResponse response;
    grpc::ClientContext context;
    Prepare(&context);
    context.AddMetadata("penstock-session-bin", session->token);
    absl::Status status = Judge(peer_->Locate(&context, request, &response));
    if (absl::IsPermissionDenied(status) && attempt == 0) {  // lapsed, or of an earlier node process
      Forget(session->token);
      continue;
    }
    if (!status.ok()) return status;
    if (response.results_size() != 1) return absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to Locate"));
    v1::LocateResult& result = *response.mutable_results(0);
    if (result.status().code() != 0) return absl::Status(static_cast<absl::StatusCode>(result.status().code()), result.status().message());
    std::lock_guard lock(mutex_);
    if (open_.token == session->token) ++open_.pins;
    return Found{std::move(*result.mutable_info()), result.grant(), session->lane, session->token};
  }
}

absl::Status PeerNode::Read(const Found& found, char* to) {
  const uint64_t bytes = found.info.nbytes();
  if (bytes == 0) return absl::OkStatus();
  Transfer transfer{.grant = found.grant, .runs = ByteRuns::Whole(bytes), .memory = {to, bytes}};
  found.lane->Run(absl::MakeSpan(&transfer, 1), {.timeout = absl::Seconds(10 + static_cast<int64_t>(bytes / kSlowestBytesPerSecond))});
  if (transfer.status.ok()) return absl::OkStatus();
  return absl::Status(transfer.status.code(), StrCat("node ", address_, ": ", std::string(transfer.status.message())));
}

void PeerNode::Release(const Found& found) {
  {
    std::lock_guard lock(mutex_);
    if (open_.token != found.token) return;  // gone with its session
    --open_.pins;
  }
  if (found.grant == 0) return;
  v1::ReleaseRequest request;
  request.add_grants(found.grant);
  v1::ReleaseResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  context.AddMetadata("penstock-session-bin", found.token);
  (void)peer_->Release(&context, request, &response);  // if it fails, the deadline does it
}

void PeerNode::Renew() {
  std::string token;
  {
    std::lock_guard lock(mutex_);
    if (open_.pins == 0) return;
    token = open_.token;
  }
  v1::RenewResponse response;
  grpc::ClientContext context;
  Prepare(&context);
  context.AddMetadata("penstock-session-bin", token);
  if (absl::IsPermissionDenied(Judge(peer_->Renew(&context, {}, &response)))) Forget(token);
}

}  // namespace penstock::server
