// What does it cost to tell another node's process a small message of the directory's and to hear the answer, beside a bare
// gRPC call of about the same size?
//
//   directory_link_bench      (asked by bench/runner/suites/directory_link.py)
//
// The other process is a fork of this one, made before there is any gRPC: it answers each message by a message on its own link,
// and each call by a response. Both go over loopback TCP.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench/workers/worker.h"
#include "peer.grpc.pb.h"
#include "proto/strcat.h"
#include "server/directory_link/directory_link.h"

namespace penstock::bench {
namespace {

using server::DirectoryLink;
namespace directory = server::directory;

constexpr directory::NodeId kAsker = 1, kAnswerer = 2;
constexpr char kName[] = "bench/directory/a-name-of-usual-length";
constexpr int kRoundTrips = 2000;
constexpr int kMany = 100'000;

class Answering : public v1::Peer::Service {
 public:
  grpc::Status Locate(grpc::ServerContext*, const v1::LocateRequest* request,
                      v1::LocateResponse* response) override {
    response->add_results()->mutable_info()->set_name(request->items(0).name());
    return grpc::Status::OK;
  }
};

// A link, and a server for it and for bare calls.
class Node {
 public:
  Node(directory::NodeId id, DirectoryLink::OnMessages on_messages)
      : link_({.self = id, .session = id, .cluster = "bench", .tls = {}}, std::move(on_messages)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&answering_);
    link_.AddTo(&builder);
    server_ = builder.BuildAndStart();
  }
  ~Node() {
    link_.Stop();
    server_->Shutdown();
  }
  int port() const { return port_; }
  DirectoryLink& link() { return link_; }

 private:
  Answering answering_;
  DirectoryLink link_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

std::string AddressOf(int port) { return StrCat("127.0.0.1:", port); }

// A pipe that carries one port; its end is the end of the asker.
struct Pipe {
  Pipe() {
    if (pipe(fds) != 0) std::abort();
  }
  int Read() const {
    int port = 0;
    return read(fds[0], &port, sizeof(port)) == sizeof(port) ? port : 0;
  }
  void Write(int port) const {
    if (write(fds[1], &port, sizeof(port)) != sizeof(port)) std::abort();
  }
  int fds[2];
};

int Answer(const Pipe& there, const Pipe& back) {
  close(there.fds[1]);
  close(STDIN_FILENO);
  close(STDOUT_FILENO);
  std::atomic<DirectoryLink*> link{nullptr};
  Node node(kAnswerer, [&](directory::NodeId from, std::vector<directory::Message> messages) {
    for (const directory::Message& message : messages) {
      if (const auto* recall = std::get_if<directory::Recall>(&message))
        link.load()->Send(from, directory::RunAck{recall->run, recall->name, true});
    }
  });
  link.store(&node.link());
  back.Write(node.port());
  node.link().SetPeers({{kAsker, AddressOf(there.Read())}});
  (void)there.Read();  // until the asker is gone
  return 0;
}

// The median of the microseconds that one `trip` takes.
template <class Trip>
absl::StatusOr<double> MedianOf(Trip trip) {
  std::vector<double> trips;
  for (int i = 0; i < kRoundTrips; ++i) {
    const auto start = std::chrono::steady_clock::now();
    if (absl::Status s = trip(); !s.ok()) return s;
    trips.push_back(SecondsSince(start) * 1e6);
  }
  std::nth_element(trips.begin(), trips.begin() + kRoundTrips / 2, trips.end());
  return trips[kRoundTrips / 2];
}

class Asker {
 public:
  explicit Asker(const Pipe& there, const Pipe& back)
      : node_(kAsker, [this](directory::NodeId, std::vector<directory::Message> messages) {
          heard_.fetch_add(messages.size());
          heard_.notify_one();
        }) {
    const std::string address = AddressOf(back.Read());
    there.Write(node_.port());
    node_.link().SetPeers({{kAnswerer, address}});
    stub_ = v1::Peer::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  }

  absl::Status Tell() {
    const uint64_t before = heard_.load();
    node_.link().Send(kAnswerer, directory::Recall{++run_, kName});
    heard_.wait(before);
    return absl::OkStatus();
  }

  absl::Status Call() {
    v1::LocateRequest request;
    request.add_items()->set_name(kName);
    v1::LocateResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Locate(&context, request, &response);
    return status.ok() ? absl::OkStatus() : absl::UnavailableError(status.error_message());
  }

  // Microseconds for each of many that are on their way at once.
  absl::StatusOr<double> TellMany() {
    const uint64_t end = heard_.load() + kMany;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kMany; ++i) node_.link().Send(kAnswerer, directory::Recall{++run_, kName});
    for (uint64_t heard; (heard = heard_.load()) < end;) heard_.wait(heard);
    return SecondsSince(start) * 1e6 / kMany;
  }

 private:
  std::atomic<uint64_t> heard_{0};
  uint64_t run_ = 0;
  Node node_;
  std::unique_ptr<v1::Peer::Stub> stub_;
};

int Run() {
  const Pipe there, back;
  const pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) _exit(Answer(there, back));
  close(back.fds[1]);
  Asker asker(there, back);
  Worker worker;
  worker.Add("message there and back", [&] { return MedianOf([&] { return asker.Tell(); }); });
  worker.Add("call", [&] { return MedianOf([&] { return asker.Call(); }); });
  worker.Add("many messages there and back", [&] { return asker.TellMany(); });
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main() { return penstock::bench::Run(); }
