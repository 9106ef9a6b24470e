// libpenstock_grpc.so: the one gRPC call that the client makes (remote_address.h).
//
// It passes bytes on and knows no message type: a second copy of the generated messages beside
// libpenstock.so's would register the same names with protobuf again, which ends the process.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/session/remote_address.h"

namespace {

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return {};
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace

extern "C" int penstock_grpc_node_info(const char* host_and_port, const penstock::TlsFiles* tls, long long timeout_ns,
                                       std::string* out) {
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (tls != nullptr) {
    grpc::SslCredentialsOptions options;
    for (const auto& [path, text] : {std::pair{&tls->ca, &options.pem_root_certs}, {&tls->cert, &options.pem_cert_chain},
                                     {&tls->key, &options.pem_private_key}}) {
      std::ifstream file(*path);
      text->assign(std::istreambuf_iterator<char>(file), {});
      if (text->empty()) {
        *out = "tls: cannot read " + *path;
        return static_cast<int>(absl::StatusCode::kInvalidArgument);
      }
    }
    credentials = grpc::SslCredentials(options);
  }
  grpc::GenericStub stub(grpc::CreateChannel(host_and_port, credentials));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::nanoseconds(timeout_ns));
  const grpc::Slice nothing;  // NodeInfoRequest has no fields
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/penstock.v1.Store/NodeInfo",
                                          grpc::ByteBuffer(&nothing, 1), &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);  // once: the context's deadline bounds it
  *out = status.ok() ? BytesOf(response) : status.error_message();
  return static_cast<int>(status.error_code());
}
