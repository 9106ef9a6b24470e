// What does it cost to ask the home of a name for it, and to put a tensor with a replica, in a cluster of two nodes?
//
//   cluster_bench --address=DIR --peer=HOST:PORT      (asked by bench/runner/suites/names.py)
//
// DIR is the node of this process, HOST:PORT the gRPC of the other one.
#include <grpcpp/grpcpp.h>
#include <penstock/client.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench/workers/worker.h"
#include "proto/rpc_methods.h"
#include "proto/strcat.h"
#include "store.grpc.pb.h"

namespace penstock::bench {
namespace {

constexpr char kPrefix[] = "bench/home/";
constexpr int kNames = 2000;
constexpr int kCalls = 500;
constexpr uint64_t kMiB = uint64_t{1} << 20;

absl::Status Judge(const grpc::Status& status) { return status.ok() ? absl::OkStatus() : absl::UnavailableError(status.error_message()); }

// The median of the seconds that one call takes.
template <class Call>
absl::StatusOr<double> MedianSeconds(int calls, Call call) {
  std::vector<double> each;
  for (int i = 0; i < calls; ++i) {
    const auto start = std::chrono::steady_clock::now();
    if (absl::Status s = call(i); !s.ok()) return s;
    each.push_back(SecondsSince(start));
  }
  std::nth_element(each.begin(), each.begin() + calls / 2, each.end());
  return each[calls / 2];
}

class ClusterBench {
 public:
  ClusterBench(Client* client, std::string peer)
      : client_(client), peer_(std::move(peer)), stub_(v1::Store::NewStub(grpc::CreateChannel(peer_, grpc::InsecureChannelCredentials()))) {}

  absl::Status Prepare() {
    const char data[64] = {};
    for (int i = 0; i < kNames; ++i) {
      absl::Status put = client_->Put(StrCat(kPrefix, i), {.data = data, .dtype = DType::kU8, .shape = Shape({64})}).status();
      if (!put.ok()) return put;
    }
    grpc::ClientContext context;
    v1::ListRequest request;
    request.set_prefix(kPrefix);
    request.set_limit(kNames);
    request.set_names_only(true);
    request.set_of_homes(true);
    v1::ListResponse response;
    if (absl::Status s = Judge(stub_->List(&context, request, &response)); !s.ok()) return s;
    for (const v1::TensorInfo& item : response.items()) names_.push_back(item.name());
    return names_.empty() ? absl::InternalError("the other node is the home of none of the names") : absl::OkStatus();
  }

  absl::StatusOr<double> Lookup() {
    return MedianSeconds(kCalls, [&](int i) { return client_->Stat(names_[static_cast<size_t>(i) % names_.size()]).status(); });
  }

  // It does nothing there: an empty list of names.
  absl::StatusOr<double> Call() {
    return MedianSeconds(kCalls, [&](int) {
      grpc::ClientContext context;
      v1::StatResponse response;
      return Judge(stub_->Stat(&context, v1::StatRequest(), &response));
    });
  }

  // Each under a new name; they are deleted afterwards.
  absl::StatusOr<double> Put(uint64_t bytes, uint32_t replicas) {
    const std::vector<char> data(bytes, 'x');
    absl::StatusOr<double> each = MedianSeconds(PutsOf(bytes), [&](int i) {
      return client_->Put(StrCat("bench/put/", bytes, "/", i), {.data = data.data(), .dtype = DType::kU8, .shape = Shape({static_cast<int64_t>(bytes)})},
                          {.replicas = replicas}).status();
    });
    if (absl::Status s = client_->DeletePrefix("bench/put/").status(); !s.ok()) return s;
    return each;
  }

  // From one node to the other, as replicas go: by reading. The location is known, the connection made.
  absl::StatusOr<double> Wire(uint64_t bytes) {
    v1::MeasurePeerRequest request;
    request.set_peer(peer_);
    request.set_bytes(bytes);
    request.set_rounds(static_cast<uint64_t>(PutsOf(bytes)));
    request.set_limit_ns(uint64_t{5} * 1'000'000'000);
    const absl::StatusOr<std::string> answer = client_->Call(static_cast<uint32_t>(rpc::Method::kMeasurePeer), request.SerializeAsString());
    if (!answer.ok()) return answer.status();
    v1::MeasurePeerResponse response;
    if (!response.ParseFromString(*answer) || response.round_ns().empty()) return absl::InternalError("MeasurePeer: no rounds");
    std::vector<uint64_t> rounds(response.round_ns().begin(), response.round_ns().end());
    std::nth_element(rounds.begin(), rounds.begin() + static_cast<ptrdiff_t>(rounds.size() / 2), rounds.end());
    return static_cast<double>(rounds[rounds.size() / 2]) * 1e-9;
  }

 private:
  static int PutsOf(uint64_t bytes) { return bytes >= 16 * kMiB ? 5 : 50; }

  Client* const client_;
  const std::string peer_;
  const std::unique_ptr<v1::Store::Stub> stub_;
  std::vector<std::string> names_;  // whose home is the other node
};

int Run(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect({.address = FlagValue(argc, argv, "address"), .timeout = absl::Seconds(60)});
  absl::Status status = client.status();
  std::unique_ptr<ClusterBench> bench;
  if (status.ok()) {
    bench = std::make_unique<ClusterBench>(client->get(), FlagValue(argc, argv, "peer"));
    status = bench->Prepare();
  }
  if (!status.ok()) {
    std::cerr << "cluster_bench: " << status << "\n";
    return 1;
  }
  Worker worker;
  worker.Add("lookup", [&] { return bench->Lookup(); });
  worker.Add("call", [&] { return bench->Call(); });
  for (const uint64_t bytes : {uint64_t{4096}, kMiB, 64 * kMiB}) {
    worker.Add(StrCat("put ", bytes), [&, bytes] { return bench->Put(bytes, 2); });
    worker.Add(StrCat("put alone ", bytes), [&, bytes] { return bench->Put(bytes, 1); });
    worker.Add(StrCat("wire and two calls ", bytes), [&, bytes]() -> absl::StatusOr<double> {
      const absl::StatusOr<double> wire = bench->Wire(bytes);
      const absl::StatusOr<double> call = bench->Call();
      if (!wire.ok()) return wire;
      if (!call.ok()) return call;
      return *wire + 2 * *call;
    });
  }
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
