#include "server/membership/etcd_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>

#include "proto/strcat.h"
#include "server/rpc/grpc_tls.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kLoginPatience = absl::Seconds(2);  // etcd hashes the password with bcrypt: that takes its time

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const TlsFiles& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // how long connecting may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(address, EtcdCredentialsOf(tls), arguments);
}

void SetPatience(grpc::ClientContext* context, absl::Duration patience) {
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(patience));
}

absl::Status StatusOf(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), StrCat("etcd ", address, ": ", status.error_message()));
}

// Another endpoint may do better.
bool IsOfThisEndpoint(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status); }

// The token is older than etcd, or than its time to live.
bool IsOldToken(const absl::Status& status) {
  return absl::IsUnauthenticated(status) || (absl::IsInvalidArgument(status) && absl::string_view(status.message()).find("auth") != absl::string_view::npos);
}

}  // namespace

EtcdRange WithPrefix(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<uint8_t>(end.back()) == 0xff) end.pop_back();
  if (end.empty()) return {std::string(prefix), std::string(1, '\0')};  // etcd's word for: all keys
  end.back() = static_cast<char>(end.back() + 1);
  return {std::string(prefix), std::move(end)};
}

void CompareRevision(etcdserverpb::TxnRequest* txn, const std::string& key, int64_t mod_revision) {
  etcdserverpb::Compare* compare = txn->add_compare();
  compare->set_result(etcdserverpb::Compare::EQUAL);
  compare->set_key(key);
  compare->set_target(etcdserverpb::Compare::MOD);
  compare->set_mod_revision(mod_revision);
}

etcdserverpb::PutRequest* PutOnSuccess(etcdserverpb::TxnRequest* txn, const std::string& key, std::string value) {
  etcdserverpb::PutRequest* put = txn->add_success()->mutable_request_put();
  put->set_key(key);
  put->set_value(std::move(value));
  return put;
}

EtcdClient::EtcdClient(const std::vector<std::string>& endpoints, const EtcdAccess& access) : access_(access) {
  for (const std::string& address : endpoints) endpoints_.push_back({address, ChannelTo(address, access.tls)});
}

void EtcdClient::Authorize(grpc::ClientContext* context) {
  std::lock_guard lock(mutex_);
  if (!token_.empty()) context->AddMetadata("token", token_);
}

absl::Status EtcdClient::Authenticate(const Endpoint& endpoint, absl::Duration patience) {
  std::ifstream file(access_.password_file);
  std::string password{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) return absl::FailedPreconditionError(StrCat("--etcd_password_file=", access_.password_file, ": cannot be read"));
  while (!password.empty() && (password.back() == '\n' || password.back() == '\r')) password.pop_back();
  etcdserverpb::AuthenticateRequest request;
  request.set_name(access_.user);
  request.set_password(std::move(password));
  etcdserverpb::AuthenticateResponse response;
  grpc::ClientContext context;
  SetPatience(&context, std::max(patience, kLoginPatience));
  const absl::Status status = StatusOf(etcdserverpb::Auth::NewStub(endpoint.channel)->Authenticate(&context, request, &response), endpoint.address);
  if (!status.ok()) {
    if (IsOfThisEndpoint(status)) return status;
    return absl::PermissionDeniedError(StrCat(std::string(status.message()), " (--etcd_user=", access_.user, ")"));
  }
  std::lock_guard lock(mutex_);
  token_ = response.token();
  return absl::OkStatus();
}

absl::Status EtcdClient::AskOne(const Endpoint& endpoint, const Call& call, absl::Duration patience) {
  bool has_token = access_.user.empty();
  if (!has_token) {
    std::lock_guard lock(mutex_);
    has_token = !token_.empty();
  }
  for (int attempt = 0;; ++attempt) {
    if (!has_token || attempt > 0) {
      if (absl::Status s = Authenticate(endpoint, patience); !s.ok()) return s;
      has_token = true;
    }
    grpc::ClientContext context;
    SetPatience(&context, patience);
    Authorize(&context);
    const absl::Status status = StatusOf(call(endpoint.channel, &context), endpoint.address);
    if (access_.user.empty() || attempt > 0 || !IsOldToken(status)) return status;
  }
}

absl::Status EtcdClient::Ask(const Call& call, absl::Duration patience) {
  // Each in turn, with its share of the time.
  const absl::Duration share = std::max(patience / static_cast<int64_t>(endpoints_.size()), absl::Milliseconds(50));
  absl::Status status;
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    const size_t present = present_.load();
    status = AskOne(endpoints_[present % endpoints_.size()], call, share);
    if (!IsOfThisEndpoint(status)) return status;
    size_t expected = present;
    present_.compare_exchange_strong(expected, present + 1);
  }
  return absl::UnavailableError(status.message());
}

absl::StatusOr<etcdserverpb::RangeResponse> EtcdClient::List(const EtcdRange& range, absl::Duration patience) {
  etcdserverpb::RangeRequest request;
  request.set_key(range.from);
  request.set_range_end(range.to);
  etcdserverpb::RangeResponse response;
  const absl::Status status = Ask([&](const auto& channel, grpc::ClientContext* context) {
    return etcdserverpb::KV::NewStub(channel)->Range(context, request, &response);
  }, patience);
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<etcdserverpb::TxnResponse> EtcdClient::Txn(const etcdserverpb::TxnRequest& request, absl::Duration patience) {
  etcdserverpb::TxnResponse response;
  const absl::Status status = Ask([&](const auto& channel, grpc::ClientContext* context) {
    return etcdserverpb::KV::NewStub(channel)->Txn(context, request, &response);
  }, patience);
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<int64_t> EtcdClient::GrantLease(absl::Duration ttl, absl::Duration patience) {
  etcdserverpb::LeaseGrantRequest request;
  request.set_ttl(std::max<int64_t>(1, absl::ToInt64Seconds(absl::Ceil(ttl, absl::Seconds(1)))));
  etcdserverpb::LeaseGrantResponse response;
  const absl::Status status = Ask([&](const auto& channel, grpc::ClientContext* context) {
    return etcdserverpb::Lease::NewStub(channel)->LeaseGrant(context, request, &response);
  }, patience);
  if (!status.ok()) return status;
  if (!response.error().empty() || response.id() == 0) return absl::UnavailableError(StrCat("etcd: no lease: ", response.error()));
  return response.id();
}

absl::StatusOr<absl::Duration> EtcdClient::KeepAlive(int64_t lease, absl::Duration patience) {
  etcdserverpb::LeaseKeepAliveResponse response;
  const absl::Status status = Ask([&](const auto& channel, grpc::ClientContext* context) {
    const auto stub = etcdserverpb::Lease::NewStub(channel);
    const auto stream = stub->LeaseKeepAlive(context);
    etcdserverpb::LeaseKeepAliveRequest request;
    request.set_id(lease);
    const bool answered = stream->Write(request) && stream->Read(&response);
    stream->WritesDone();
    if (answered) context->TryCancel();  // etcd would keep the stream
    const grpc::Status end = stream->Finish();
    return answered ? grpc::Status::OK : end.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "no answer") : end;
  }, patience);
  if (!status.ok()) return status;
  if (response.ttl() <= 0) return absl::NotFoundError("etcd: the lease is over");
  return absl::Seconds(response.ttl());
}

absl::Status EtcdClient::RevokeLease(int64_t lease, absl::Duration patience) {
  etcdserverpb::LeaseRevokeRequest request;
  request.set_id(lease);
  etcdserverpb::LeaseRevokeResponse response;
  return Ask([&](const auto& channel, grpc::ClientContext* context) {
    return etcdserverpb::Lease::NewStub(channel)->LeaseRevoke(context, request, &response);
  }, patience);
}

absl::Status EtcdClient::Watching::Run(const EtcdRange& range, int64_t from, const std::function<void(const etcdserverpb::WatchResponse&)>& changed) {
  grpc::ClientContext context;
  client_->Authorize(&context);
  context.AddMetadata("hasleader", "true");  // a member that lost its quorum ends the watch instead of staying silent
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return absl::CancelledError("stopped");
    running_ = &context;
  }
  const Endpoint& endpoint = client_->Present();
  const auto stub = etcdserverpb::Watch::NewStub(endpoint.channel);
  const auto stream = stub->Watch(&context);
  etcdserverpb::WatchRequest request;
  request.mutable_create_request()->set_key(range.from);
  request.mutable_create_request()->set_range_end(range.to);
  request.mutable_create_request()->set_start_revision(from);
  absl::Status ended;
  bool live = stream->Write(request);
  etcdserverpb::WatchResponse response;
  while (live && stream->Read(&response)) {
    if (response.canceled()) {
      ended = response.compact_revision() != 0 ? absl::OutOfRangeError(StrCat("etcd has compacted revision ", from))
                                               : absl::UnavailableError(StrCat("etcd ended the watch: ", response.cancel_reason()));
      context.TryCancel();
      break;
    }
    changed(response);
  }
  const absl::Status finished = StatusOf(stream->Finish(), endpoint.address);
  {
    std::lock_guard lock(mutex_);
    running_ = nullptr;
  }
  if (!ended.ok()) return ended;
  return finished.ok() ? absl::UnavailableError("etcd ended the watch") : finished;
}

void EtcdClient::Watching::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  if (running_ != nullptr) running_->TryCancel();
}

}  // namespace penstock::server
