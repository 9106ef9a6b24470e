#include "client/session/remote_reads.h"

#include <string.h>

#include <algorithm>

#include "client/session/session.h"
#include "proto/strcat.h"

namespace penstock::client {

absl::StatusOr<v1::OpenReadResponse> RemoteReads::Open(std::string_view name, const Options& options, const std::string& refused_token) {
  v1::OpenReadRequest request;
  request.set_name(std::string(name));
  request.set_version(options.version);
  request.set_whole(options.whole);
  request.set_refused_token(refused_token);
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

std::shared_ptr<StreamLane> RemoteReads::LaneOf(const v1::OpenReadResponse& opened) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto& [token, lane] = lanes_[opened.data_address()];
  if (lane == nullptr || token != opened.token()) {
    LaneToken bytes{};
    memcpy(bytes.data(), opened.token().data(), std::min(bytes.size(), opened.token().size()));
    token = opened.token();
    lane = std::make_shared<StreamLane>(StreamLaneOptions{.address = opened.data_address(), .token = bytes, .tls = opened.tls()});
  }
  return lane;
}

absl::Status RemoteReads::Move(const v1::OpenReadResponse& opened, const Target& target, const Options& options) {
  if (target.memory.empty()) return absl::OkStatus();
  if (absl::Status s = target.runs.CheckWithin(opened.info().nbytes()); !s.ok()) return s;
  Transfer transfer{.grant = opened.grant(), .runs = target.runs, .memory = target.memory};
  LaneOf(opened)->Run(absl::MakeSpan(&transfer, 1), {.timeout = options.deadline.Left(), .cancelled = options.cancelled});
  return transfer.status;
}

absl::StatusOr<std::optional<v1::TensorInfo>> RemoteReads::Read(std::string_view name, const Options& options, const Choose& choose) {
  std::string refused_token;
  for (int attempt = 0;; ++attempt) {
    absl::StatusOr<v1::OpenReadResponse> opened = Open(name, options, refused_token);
    if (absl::IsNotFound(opened.status())) return NoSuchTensor(name, options.version);
    if (!opened.ok()) return opened.status();
    if (opened->here()) return std::nullopt;
    const absl::StatusOr<std::optional<Target>> target = choose(opened->info());
    absl::Status status = target.status();
    if (status.ok() && *target) status = Move(*opened, **target, options);
    Close(*opened);
    if (status.ok() && !*target) return std::nullopt;
    if (status.ok()) return std::move(*opened->mutable_info());
    // The other node was restarted, or the session there lapsed (this process was stopped): once more, with another one.
    const bool again = absl::IsPermissionDenied(status) || absl::IsUnavailable(status);
    if (!target.ok() || !again || attempt > 0 || options.deadline.Passed()) {
      return absl::Status(status.code(), StrCat("read \"", name, "\" from node ", opened->data_address(), ": ", status.message()));
    }
    refused_token = opened->token();
  }
}

}  // namespace penstock::client
