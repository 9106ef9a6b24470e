// A front of a real etcd that takes watches and never tells of anything; all else is the etcd's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "etcd.grpc.pb.h"
#include "proto/strcat.h"

namespace penstock::server {

class SilentWatchFront {
 public:
  explicit SilentWatchFront(const std::string& etcd)
      : channel_(grpc::CreateChannel(etcd, grpc::InsecureChannelCredentials())), kv_(channel_), lease_(channel_) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&kv_);
    builder.RegisterService(&lease_);
    builder.RegisterService(&watch_);
    server_ = builder.BuildAndStart();
  }
  ~SilentWatchFront() { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return StrCat("127.0.0.1:", port_); }
  int watches() const { return watch_.count; }

 private:
  static void Limit(grpc::ClientContext* context) { context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5)); }

  struct Kv final : etcdserverpb::KV::Service {
    explicit Kv(const std::shared_ptr<grpc::Channel>& channel) : stub(etcdserverpb::KV::NewStub(channel)) {}
    grpc::Status Range(grpc::ServerContext*, const etcdserverpb::RangeRequest* request, etcdserverpb::RangeResponse* response) override {
      grpc::ClientContext context;
      Limit(&context);
      return stub->Range(&context, *request, response);
    }
    grpc::Status Txn(grpc::ServerContext*, const etcdserverpb::TxnRequest* request, etcdserverpb::TxnResponse* response) override {
      grpc::ClientContext context;
      Limit(&context);
      return stub->Txn(&context, *request, response);
    }
    std::unique_ptr<etcdserverpb::KV::Stub> stub;
  };
  struct Lease final : etcdserverpb::Lease::Service {
    explicit Lease(const std::shared_ptr<grpc::Channel>& channel) : stub(etcdserverpb::Lease::NewStub(channel)) {}
    grpc::Status LeaseGrant(grpc::ServerContext*, const etcdserverpb::LeaseGrantRequest* request, etcdserverpb::LeaseGrantResponse* response) override {
      grpc::ClientContext context;
      Limit(&context);
      return stub->LeaseGrant(&context, *request, response);
    }
    grpc::Status LeaseRevoke(grpc::ServerContext*, const etcdserverpb::LeaseRevokeRequest* request, etcdserverpb::LeaseRevokeResponse* response) override {
      grpc::ClientContext context;
      Limit(&context);
      return stub->LeaseRevoke(&context, *request, response);
    }
    // One question and its answer, again and again.
    grpc::Status LeaseKeepAlive(grpc::ServerContext*,
                                grpc::ServerReaderWriter<etcdserverpb::LeaseKeepAliveResponse, etcdserverpb::LeaseKeepAliveRequest>* caller) override {
      grpc::ClientContext context;
      const auto there = stub->LeaseKeepAlive(&context);
      etcdserverpb::LeaseKeepAliveRequest request;
      etcdserverpb::LeaseKeepAliveResponse response;
      while (caller->Read(&request) && there->Write(request) && there->Read(&response) && caller->Write(response)) {
      }
      context.TryCancel();
      (void)there->Finish();
      return grpc::Status::OK;
    }
    std::unique_ptr<etcdserverpb::Lease::Stub> stub;
  };
  struct SilentWatch final : etcdserverpb::Watch::Service {
    grpc::Status Watch(grpc::ServerContext*, grpc::ServerReaderWriter<etcdserverpb::WatchResponse, etcdserverpb::WatchRequest>* caller) override {
      ++count;
      etcdserverpb::WatchRequest request;
      bool created = false;
      while (caller->Read(&request)) {
        etcdserverpb::WatchResponse response;
        response.set_created(true);
        if (!std::exchange(created, true)) caller->Write(response);
      }
      return grpc::Status::OK;
    }
    std::atomic<int> count{0};
  };

  std::shared_ptr<grpc::Channel> channel_;
  Kv kv_;
  Lease lease_;
  SilentWatch watch_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace penstock::server
