// What does it cost to hand 1 GiB to another process's memory through gRPC over a UNIX socket?
//
//   grpc_bench --socket=PATH      (asked by bench/runner/suites/seeds.py)
//
// A unary call whose request is the bytes (serialized without a copy); the server copies what it
// received into one array, as whoever wants a tensor must.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "bench/workers/worker.h"

namespace penstock::bench {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

class Receiver : public grpc::ServerGenericBidiReactor {
 public:
  explicit Receiver(std::vector<char>* array) : array_(array) { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    if (!ok || !CopyToArray()) {
      Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the request is not 1 GiB"));
      return;
    }
    response_ = grpc::ByteBuffer(&done_, 1);
    StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
  }
  void OnDone() override { delete this; }

 private:
  bool CopyToArray() {
    std::vector<grpc::Slice> slices;
    if (!request_.Dump(&slices).ok() || request_.Length() != array_->size()) return false;
    size_t offset = 0;
    for (const grpc::Slice& slice : slices) {
      std::memcpy(array_->data() + offset, slice.begin(), slice.size());
      offset += slice.size();
    }
    return true;
  }

  std::vector<char>* array_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  const grpc::Slice done_{"done"};
};

class ReceivingService : public grpc::CallbackGenericService {
 public:
  ReceivingService() : array_(kGiB, 0) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Receiver(&array_);  // deletes itself in OnDone
  }

 private:
  std::vector<char> array_;
};

absl::Status Send(grpc::GenericStub& stub, const std::vector<char>& source) {
  const grpc::Slice slice(source.data(), source.size(), grpc::Slice::STATIC_SLICE);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/bench/Take", {}, &request, &response,
                 [&](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  return status.ok() ? absl::OkStatus() : absl::UnavailableError(status.error_message());
}

int Run(int argc, char** argv) {
  const std::string address = "unix:" + FlagValue(argc, argv, "socket");
  ReceivingService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterCallbackGenericService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  const std::vector<char> source(kGiB, 1);
  Worker worker;
  worker.Add("grpc 1 GiB", [&] { return SecondsOnce([&] { return Send(stub, source); }); });
  const int status = worker.Serve();
  server->Shutdown();
  return status;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
