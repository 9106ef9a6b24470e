#include "server/rpc/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "peer.grpc.pb.h"
#include "server/directory_link/directory_link.h"
#include "server/rpc/grpc_tls.h"
#include "store.grpc.pb.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

std::string_view TokenOf(const grpc::ServerContext& context) {
  const auto it = context.client_metadata().find("penstock-session-bin");
  if (it == context.client_metadata().end()) return {};
  return {it->second.data(), it->second.size()};
}

class Service final : public v1::Store::Service {
 public:
  explicit Service(StoreService* service) : service_(service) {}

#define PENSTOCK_UNARY(Method)                                                                                       \
  grpc::Status Method(grpc::ServerContext* context, const v1::Method##Request* request, v1::Method##Response* response) override { \
    if (!AwaitTurn(*context)) return GaveUp();                                                                       \
    return ToGrpc(service_->Method(*request, response));                                                             \
  }
  PENSTOCK_UNARY(NodeInfo)
  PENSTOCK_UNARY(Stat)
  PENSTOCK_UNARY(LongestPrefix)
  PENSTOCK_UNARY(Delete)
  PENSTOCK_UNARY(DeletePrefix)
  PENSTOCK_UNARY(Df)
  PENSTOCK_UNARY(Sessions)
  PENSTOCK_UNARY(Pins)
#undef PENSTOCK_UNARY

#define PENSTOCK_OF_SESSION(Method)                                                                                  \
  grpc::Status Method(grpc::ServerContext* context, const v1::Method##Request* request, v1::Method##Response* response) override { \
    if (!AwaitTurn(*context)) return GaveUp();                                                                       \
    const std::shared_ptr<Session> session = SessionOf(*context);                                                    \
    return ToGrpc(service_->Method(session.get(), *request, response));                                              \
  }
  PENSTOCK_OF_SESSION(Allocate)
  PENSTOCK_OF_SESSION(Publish)
  PENSTOCK_OF_SESSION(Abort)
#undef PENSTOCK_OF_SESSION

  grpc::Status List(grpc::ServerContext* context, const v1::ListRequest* request, v1::ListResponse* response) override {
    if (!AwaitTurn(*context)) return GaveUp();
    return ToGrpc(service_->List(*request, uint64_t{2} << 20, response));
  }
  grpc::Status Wait(grpc::ServerContext* context, const v1::WaitRequest* request, v1::WaitResponse* response) override {
    return WaitFor(*context, request->timeout_ns(), absl::DeadlineExceededError(StrCat("wait '", request->name(), "': it has not come yet")),
                   [&] { return service_->Wait(*request, response); });
  }
  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchRequest* request, v1::WatchResponse* response) override {
    return WaitFor(*context, request->timeout_ns(), absl::OkStatus(), [&] { return service_->Watch(*request, response); });
  }

 private:
  static grpc::Status GaveUp() { return {grpc::StatusCode::CANCELLED, "the caller has gone before its turn came (--max_requests_per_second)"}; }

  // By the rate that clients share. False: the caller has gone.
  bool AwaitTurn(const grpc::ServerContext& context) {
    RequestRate& rate = service_->rate();
    if (rate.Take(MonotonicNow())) return true;
    rate.CountWait();
    while (!context.IsCancelled()) {
      absl::SleepFor(std::clamp(rate.next() - MonotonicNow(), absl::Milliseconds(1), absl::Milliseconds(50)));
      if (rate.Take(MonotonicNow())) return true;
    }
    return false;
  }

  template <class Attempt>
  grpc::Status WaitFor(grpc::ServerContext& context, uint64_t timeout_ns, const absl::Status& late, Attempt attempt) {
    if (!AwaitTurn(context)) return GaveUp();
    const absl::Time deadline = StoreService::WaitDeadline(timeout_ns);
    while (true) {
      const uint64_t epoch = service_->store()->change_epoch();
      if (const std::optional<absl::Status> done = attempt()) return ToGrpc(*done);
      const absl::Duration left = deadline - MonotonicNow();
      if (left <= absl::ZeroDuration() || context.IsCancelled()) return ToGrpc(late);
      service_->store()->WaitForChange(epoch, std::min(left, absl::Milliseconds(100)));
    }
  }

  std::shared_ptr<Session> SessionOf(const grpc::ServerContext& context) const {
    const std::string_view token = TokenOf(context);
    return token.empty() ? nullptr : service_->store()->FindSessionByToken(token);
  }

  StoreService* const service_;
};

class PeerOnGrpc final : public v1::Peer::Service {
 public:
  explicit PeerOnGrpc(PeerService* service) : service_(service) {}

  grpc::Status OpenSession(grpc::ServerContext*, const v1::OpenSessionRequest* request, v1::OpenSessionResponse* response) override {
    return ToGrpc(service_->OpenSession(*request, response));
  }
#define PENSTOCK_WITH_TOKEN(Method)                                                                                  \
  grpc::Status Method(grpc::ServerContext* context, const v1::Method##Request* request, v1::Method##Response* response) override { \
    return ToGrpc(service_->Method(TokenOf(*context), *request, response));                                          \
  }
  PENSTOCK_WITH_TOKEN(Renew)
  PENSTOCK_WITH_TOKEN(CloseSession)
  PENSTOCK_WITH_TOKEN(Locate)
  PENSTOCK_WITH_TOKEN(AwaitRecalls)
  PENSTOCK_WITH_TOKEN(Release)
  PENSTOCK_WITH_TOKEN(ReserveDrafts)
  PENSTOCK_WITH_TOKEN(PublishDrafts)
  PENSTOCK_WITH_TOKEN(OpenChannels)
  PENSTOCK_WITH_TOKEN(JoinChain)
  PENSTOCK_WITH_TOKEN(LocateCopy)
#undef PENSTOCK_WITH_TOKEN

 private:
  PeerService* const service_;
};

class GrpcServerOnSockets final : public GrpcServer {
 public:
  GrpcServerOnSockets(StoreService* service, PeerService* peer) : service_(service), peer_(peer), serves_peers_(peer != nullptr) {}
  ~GrpcServerOnSockets() override { Stop(); }

  absl::Status Listen(const GrpcOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    unlink(options.unix_socket.c_str());  // of an earlier node process; the warden saw to it that there is one node only
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(64 << 20);
    // One listener a port: a second node on it must fail, and port 0 would be as many free ports as there are cores.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort("unix:" + options.unix_socket, grpc::InsecureServerCredentials());
    if (options.port >= 0) {
      builder.AddListeningPort(StrCat(options.host, ":", options.port), ServerCredentialsOf(options.tls), &port_);
    }
    builder.RegisterService(&service_);
    if (serves_peers_) builder.RegisterService(&peer_);
    if (options.directory != nullptr) options.directory->AddTo(&builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (options.port >= 0 && port_ == 0)) {
      return absl::UnavailableError(StrCat("gRPC: cannot listen on ", options.unix_socket,
                                           options.port >= 0 ? StrCat(" and ", options.host, ":", options.port) : std::string(),
                                           "; is the port in use? (--grpc_port)"));
    }
    if (chmod(options.unix_socket.c_str(), options.socket_mode) != 0) {
      return ErrnoStatus(errno, "gRPC: chmod of " + options.unix_socket);
    }
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  void Stop() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
    server_.reset();
  }

 private:
  Service service_;
  PeerOnGrpc peer_;
  const bool serves_peers_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = -1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(StoreService* service, PeerService* peer, const GrpcOptions& options) {
  auto server = std::make_unique<GrpcServerOnSockets>(service, peer);
  if (absl::Status s = server->Listen(options); !s.ok()) return s;
  return server;
}

}  // namespace penstock::server
