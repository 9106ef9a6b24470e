// What does a get cost from C++, and what a gRPC call beside it?
//
//   local_bench --address=DIR --names=N      (asked by bench/runner/suites/local.py)
#include <grpcpp/grpcpp.h>
#include <penstock/client.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "bench/workers/names.h"
#include "bench/workers/worker.h"
#include "proto/strcat.h"
#include "store.grpc.pb.h"

namespace penstock::bench {
namespace {

struct Size {
  const char* name;
  uint64_t bytes;
};
constexpr Size kSizes[] = {{"4 KiB", 4096},
                           {"1 MiB", uint64_t{1} << 20},
                           {"64 MiB", uint64_t{64} << 20},
                           {"1 GiB", uint64_t{1} << 30}};

absl::Status GetOnce(Client& client, const std::string& name) {
  absl::StatusOr<TensorView> view = client.Get(name);
  if (!view.ok()) return view.status();
  Keep(view->data());
  return absl::OkStatus();
}

absl::Status PutZeros(Client& client, const std::string& name, uint64_t bytes) {
  absl::StatusOr<Draft> draft =
      client.Create(name, DType::kU8, Shape({static_cast<int64_t>(bytes)}));
  if (!draft.ok()) return draft.status();
  return std::move(*draft).Publish().status();
}

absl::Status AddGets(Client& client, Worker& worker) {
  for (const Size& size : kSizes) {
    const std::string name = StrCat("bench/hot/", size.bytes);
    if (absl::Status s = PutZeros(client, name, size.bytes); !s.ok()) return s;
    worker.Add(StrCat("get hot ", size.name), [&client, name] {
      return NanosecondsEach([&](uint64_t) { return GetOnce(client, name); });
    });
  }
  return absl::OkStatus();
}

// Names in an order that no prefetcher guesses; the strings are made before, they are the caller's.
void AddRandomGets(Client& client, Worker& worker, uint64_t count) {
  auto names = std::make_shared<std::vector<std::string>>();
  std::mt19937_64 random(20240607);
  for (int i = 0; i < 1 << 16; ++i) names->push_back(NumberedName(random() % count));
  auto next = std::make_shared<size_t>(0);
  worker.Add("get random", [&client, names, next] {
    return NanosecondsEach([&](uint64_t) { return GetOnce(client, (*names)[(*next)++ & 0xffff]); });
  });
}

void AddGrpc(const std::string& address, Worker& worker) {
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateChannel("unix:" + address + "/grpc.sock", grpc::InsecureChannelCredentials());
  std::shared_ptr<v1::Store::Stub> stub = v1::Store::NewStub(channel);
  worker.Add("grpc unary", [stub] {
    return NanosecondsEach(
        [&](uint64_t) -> absl::Status {
          grpc::ClientContext context;
          v1::NodeInfoResponse response;
          grpc::Status status = stub->NodeInfo(&context, v1::NodeInfoRequest(), &response);
          if (!status.ok()) return absl::UnavailableError(status.error_message());
          return absl::OkStatus();
        },
        0.1, 16);
  });
}

int Run(int argc, char** argv) {
  const std::string address = FlagValue(argc, argv, "address");
  const uint64_t names = std::strtoull(FlagValue(argc, argv, "names").c_str(), nullptr, 10);
  absl::StatusOr<std::unique_ptr<Client>> client =
      Client::Connect({.address = address, .timeout = absl::Seconds(60)});
  absl::Status status = client.status();
  Worker worker;
  if (status.ok()) status = PutNumberedNames(**client, names);
  if (status.ok()) status = AddGets(**client, worker);
  if (!status.ok()) {
    std::cerr << "local_bench: " << status << "\n";
    return 1;
  }
  AddRandomGets(**client, worker, names);
  AddGrpc(address, worker);
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
