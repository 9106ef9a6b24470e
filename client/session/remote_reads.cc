#include "client/session/remote_reads.h"

#include <string.h>

#include <algorithm>

#include "client/session/own_rdma.h"
#include "client/session/session.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"
#include "transport/stream/stream_lane.h"

namespace penstock::client {

namespace {

constexpr int64_t kSlowestBytesPerSecond = 10'000'000;

// What an attempt by RDMA may take: the stream lane needs the rest.
absl::Duration Patience(uint64_t bytes, const RemoteReads::Options& options) {
  if (options.rdma_only) return options.deadline.Left();
  return std::min(options.deadline.Left(), absl::Seconds(3) + absl::Seconds(static_cast<int64_t>(bytes) / kSlowestBytesPerSecond));
}

absl::Time DeadlineOf(uint64_t nanos) { return absl::FromUnixNanos(static_cast<int64_t>(nanos)); }

}  // namespace

absl::StatusOr<v1::OpenReadResponse> RemoteReads::Open(std::string_view name, const Options& options, const std::string& refused_token) {
  v1::OpenReadRequest request;
  request.set_name(std::string(name));
  request.set_version(options.version);
  request.set_whole(options.whole);
  request.set_refused_token(refused_token);
  request.set_rdma(OwnRdma::Get().MayBeUsed());
  const absl::StatusOr<std::string> answer = session_->Call(rpc::Method::kOpenRead, request.SerializeAsString(), options.deadline);
  if (!answer.ok()) return answer.status();
  v1::OpenReadResponse response;
  if (!response.ParseFromString(*answer)) return absl::InternalError("the node's answer to OpenRead cannot be read");
  return response;
}

// Nobody waits for it: what it does not do, the end of the session does.
void RemoteReads::Close(const v1::OpenReadResponse& opened) {
  if (opened.grant() == 0) return;
  v1::CloseReadRequest request;
  request.set_token(opened.token());
  request.set_grant(opened.grant());
  session_->Post(rpc::Method::kCloseRead, request.SerializeAsString());
}

absl::Time RemoteReads::CloseAndTellDeadline(v1::OpenReadResponse* opened, const Options& options) {
  v1::CloseReadRequest request;
  request.set_token(opened->token());
  request.set_grant(opened->grant());
  opened->clear_grant();  // is closed
  const absl::StatusOr<std::string> answer = session_->Call(rpc::Method::kCloseRead, request.SerializeAsString(), options.deadline);
  v1::CloseReadResponse response;
  if (!answer.ok() || !response.ParseFromString(*answer)) return absl::InfinitePast();
  return DeadlineOf(response.deadline_ns());
}

std::shared_ptr<Lane> RemoteReads::StreamLaneTo(const v1::OpenReadResponse& opened) {
  std::lock_guard<std::mutex> lock(mutex_);
  Peer& peer = peers_[opened.data_address()];
  if (peer.stream == nullptr || peer.token != opened.token()) {
    LaneToken bytes{};
    memcpy(bytes.data(), opened.token().data(), std::min(bytes.size(), opened.token().size()));
    peer.token = opened.token();
    peer.stream = std::make_shared<StreamLane>(StreamLaneOptions{.address = opened.data_address(), .token = bytes, .tls = opened.tls()});
  }
  return peer.stream;
}

absl::StatusOr<RemoteReads::RdmaPath> RemoteReads::RdmaPathTo(const v1::OpenReadResponse& opened) {
  const absl::StatusOr<RdmaReader*> reader = OwnRdma::Get().Reader(opened.rdma().version());
  if (!reader.ok()) return reader.status();
  std::shared_ptr<Lane> old;  // of a process that is gone: closed without the lock, for it may take a while
  std::lock_guard<std::mutex> lock(mutex_);
  Peer& peer = peers_[opened.data_address()];
  if (peer.rdma == nullptr || peer.worker != opened.rdma().worker()) {
    auto blocks = std::make_shared<GrantedBlocks>();
    absl::StatusOr<std::shared_ptr<Lane>> lane = (*reader)->NewLane(opened.rdma().worker(), blocks);
    if (!lane.ok()) return lane.status();
    peer.worker = opened.rdma().worker();
    old = std::move(peer.rdma);
    peer.rdma = *std::move(lane);
    peer.blocks = std::move(blocks);
  }
  return RdmaPath{peer.rdma, peer.blocks};
}

bool RemoteReads::RdmaIsDown(const v1::OpenReadResponse& opened) {
  std::lock_guard<std::mutex> lock(mutex_);
  return MonotonicNow() < peers_[opened.data_address()].rdma_down_until;
}

void RemoteReads::NoteRdmaFailure(const v1::OpenReadResponse& opened) {
  std::lock_guard<std::mutex> lock(mutex_);
  peers_[opened.data_address()].rdma_down_until = MonotonicNow() + kRdmaDown;
}

absl::StatusOr<bool> RemoteReads::MoveByRdma(v1::OpenReadResponse* opened, const Target& target, const Options& options) {
  const absl::StatusOr<RdmaPath> path = RdmaPathTo(*opened);
  if (!path.ok()) return false;
  const absl::StatusOr<std::shared_ptr<const void>> registered = OwnRdma::Get().Hold(target.memory);
  if (!registered.ok()) return false;
  const v1::RdmaRead& rdma = opened->rdma();
  const uint64_t block = next_block_.fetch_add(1);  // grants of two sessions may have one number
  path->blocks->Add(block, {.address = rdma.address(), .bytes = opened->info().nbytes(), .key = rdma.key(), .hold = nullptr});
  Transfer transfer{.grant = block, .runs = target.runs, .memory = target.memory};
  path->lane->Run(absl::MakeSpan(&transfer, 1), {.timeout = Patience(target.memory.size(), options), .cancelled = options.cancelled});
  path->blocks->Remove(block);
  const absl::Time ended = MonotonicNow();
  if (absl::IsCancelled(transfer.status)) return transfer.status;
  if (!transfer.status.ok()) {
    NoteRdmaFailure(*opened);
    if (options.deadline.Passed()) return transfer.status;
    return false;
  }
  if (ended < DeadlineOf(rdma.deadline_ns()) || ended < CloseAndTellDeadline(opened, options)) return true;
  return absl::UnavailableError("the read ended after the session's deadline; what was read does not count");
}

absl::StatusOr<std::string> RemoteReads::Move(v1::OpenReadResponse* opened, const Target& target, const Options& options) {
  if (target.memory.empty()) return "stream";
  if (absl::Status s = target.runs.CheckWithin(opened->info().nbytes()); !s.ok()) return s;
  const bool rdma_only = options.rdma_only || opened->rdma().only();
  const bool worth_it = rdma_only || target.runs.run_bytes >= kLeastRdmaRun;
  if (opened->has_rdma() && worth_it && !RdmaIsDown(*opened)) {
    const absl::StatusOr<bool> moved = MoveByRdma(opened, target, options);
    if (!moved.ok()) return moved.status();
    if (*moved) return "rdma";
  }
  if (rdma_only) return "";
  Transfer transfer{.grant = opened->grant(), .runs = target.runs, .memory = target.memory};
  StreamLaneTo(*opened)->Run(absl::MakeSpan(&transfer, 1), {.timeout = options.deadline.Left(), .cancelled = options.cancelled});
  if (!transfer.status.ok()) return transfer.status;
  return "stream";
}

absl::StatusOr<std::optional<RemoteReads::Done>> RemoteReads::Read(std::string_view name, const Options& options, const Choose& choose) {
  std::string refused_token;
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<v1::OpenReadResponse> opened = Open(name, options, refused_token);
    if (absl::IsNotFound(opened.status())) return NoSuchTensor(name, options.version);
    if (!opened.ok()) return opened.status();
    if (opened->here()) return std::nullopt;
    const absl::StatusOr<std::optional<Target>> target = choose(opened->info());
    absl::StatusOr<std::string> path = target.status().ok() ? std::string() : absl::StatusOr<std::string>(target.status());
    PENSTOCK_FAULT_POINT("client.read.opened");
    if (target.ok() && *target) path = Move(&*opened, **target, options);
    Close(*opened);
    if (path.ok() && path->empty()) return std::nullopt;
    if (path.ok()) return Done{std::move(*opened->mutable_info()), *std::move(path)};
    // The other node was restarted, or the session there lapsed (this process was stopped): once more, with another one.
    const absl::Status& status = path.status();
    const bool again = absl::IsPermissionDenied(status) || absl::IsUnavailable(status);
    if (!target.ok() || !again || attempt > 0 || options.deadline.Passed()) {
      return absl::Status(status.code(), StrCat("read \"", name, "\" from node ", opened->data_address(), ": ", status.message()));
    }
    refused_token = opened->token();
  }
}

void RemoteReads::ChildReset() {
  for (auto& [address, peer] : peers_) {
    if (peer.rdma != nullptr) new std::shared_ptr<Lane>(std::move(peer.rdma));
    peer.rdma = nullptr;
  }
}

}  // namespace penstock::client
