// libpenstock_grpc.so: the one gRPC call that the client makes (remote_address.h).
#include <grpcpp/grpcpp.h>

#include <chrono>

#include "client/session/remote_address.h"
#include "store.grpc.pb.h"

extern "C" int penstock_grpc_node_info(const char* host_and_port, long long timeout_ns,
                                       std::string* out) {
  auto stub = penstock::v1::Store::NewStub(
      grpc::CreateChannel(host_and_port, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns));
  penstock::v1::NodeInfoResponse response;
  const grpc::Status status = stub->NodeInfo(&context, {}, &response);
  *out = status.ok() ? response.SerializeAsString() : status.error_message();
  return static_cast<int>(status.error_code());
}
