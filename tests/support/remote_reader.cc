// A reader on another host, for tests: Peer over gRPC and the stream lane, and nothing of the client library.
//
//   remote_reader HOST:PORT     reads commands from stdin, a line each, and answers with a line of JSON:
//     open [TTL_MS [LABEL]] | renew | close | locate NAME [VERSION] | read GRANT OFFSET BYTES
//     reserve NAME BYTES | write DRAFT OFFSET BYTES (all 'w') | publish DRAFT | release GRANT... | token FILL
#include <grpcpp/grpcpp.h>
#include <zlib.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "peer.grpc.pb.h"
#include "penstock/dtype.h"
#include "transport/stream/stream_lane.h"

namespace penstock {
namespace {

using nlohmann::json;

constexpr int kSeconds = 5;  // of every call

json Error(int code, const std::string& message) {
  return {{"error", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}, {"message", message}};
}

class Reader {
 public:
  explicit Reader(const std::string& address)
      : stub_(v1::Peer::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {}

  json Do(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "open") return Open(words);
    if (verb == "renew") return Call<v1::RenewRequest, v1::RenewResponse>(&v1::Peer::Stub::Renew, {}, [](const auto& r) { return json{{"ttl_ns", r.ttl_ns()}}; });
    if (verb == "close") return Call<v1::CloseSessionRequest, v1::CloseSessionResponse>(&v1::Peer::Stub::CloseSession, {}, [](const auto&) { return json::object(); });
    if (verb == "locate") return Locate(words);
    if (verb == "read") return Move(words, TransferKind::kRead);
    if (verb == "write") return Move(words, TransferKind::kWrite);
    if (verb == "token") return Forge(words);
    if (verb == "reserve") return Reserve(words);
    if (verb == "publish") return Publish(words);
    if (verb == "release") {
      v1::ReleaseRequest request;
      for (uint64_t grant; words >> grant;) request.add_grants(grant);
      return Call<v1::ReleaseRequest, v1::ReleaseResponse>(&v1::Peer::Stub::Release, request, [](const auto&) { return json::object(); });
    }
    return Error(3, "no such command: " + line);
  }

 private:
  template <class Request, class Response, class Method, class Tell>
  json Call(Method method, const Request& request, Tell tell) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kSeconds));
    context.AddMetadata("penstock-session-bin", token_);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    return status.ok() ? tell(response) : Error(status.error_code(), status.error_message());
  }

  json Open(std::istringstream& words) {
    v1::OpenSessionRequest request;
    uint64_t milliseconds = 0;
    std::string label = "remote_reader";
    words >> milliseconds >> label;
    request.set_ttl_ns(milliseconds * 1'000'000);
    request.set_label(label);
    return Call<v1::OpenSessionRequest, v1::OpenSessionResponse>(&v1::Peer::Stub::OpenSession, request, [this](const v1::OpenSessionResponse& r) {
      token_ = r.token();
      Connect(r.lanes(0).address());
      return json{{"ttl_ns", r.ttl_ns()}, {"generation", r.generation()}, {"node", r.node_uuid()}, {"lane", r.lanes(0).name()}, {"address", address_}};
    });
  }
  void Connect(const std::string& address) {
    address_ = address;
    LaneToken token;
    std::copy(token_.begin(), token_.end(), token.begin());
    lane_ = std::make_unique<StreamLane>(StreamLaneOptions{.address = address_, .token = token});
  }
  json Forge(std::istringstream& words) {
    int fill = 0;
    words >> fill;
    token_.assign(16, static_cast<char>(fill));
    Connect(address_);
    return json::object();
  }

  json Locate(std::istringstream& words) {
    v1::LocateRequest request;
    std::string name;
    uint64_t version = 0;
    words >> name >> version;
    v1::LocateItem* item = request.add_items();
    item->set_name(name);
    item->set_version(version);
    return Call<v1::LocateRequest, v1::LocateResponse>(&v1::Peer::Stub::Locate, request, [](const v1::LocateResponse& r) {
      const v1::LocateResult& one = r.results(0);
      if (one.status().code() != 0) return Error(one.status().code(), one.status().message());
      return json{{"grant", one.grant()}, {"nbytes", one.info().nbytes()}, {"version", one.info().version().number()}, {"has_location", one.info().has_location()}};
    });
  }

  json Reserve(std::istringstream& words) {
    v1::ReserveDraftsRequest request;
    std::string name;
    int64_t bytes = 0;
    words >> name >> bytes;
    v1::CreateSpec* spec = request.add_items()->mutable_spec();
    spec->set_name(name);
    spec->set_dtype(static_cast<uint32_t>(DType::kU8));
    spec->add_shape(bytes);
    spec->set_keep(true);
    return Call<v1::ReserveDraftsRequest, v1::ReserveDraftsResponse>(&v1::Peer::Stub::ReserveDrafts, request, [](const v1::ReserveDraftsResponse& r) {
      const v1::ReserveResult& one = r.results(0);
      return one.status().code() != 0 ? Error(one.status().code(), one.status().message()) : json{{"draft", one.draft()}};
    });
  }
  json Publish(std::istringstream& words) {
    v1::PublishDraftsRequest request;
    uint64_t draft = 0;
    words >> draft;
    request.add_drafts(draft);
    return Call<v1::PublishDraftsRequest, v1::PublishDraftsResponse>(&v1::Peer::Stub::PublishDrafts, request, [](const v1::PublishDraftsResponse& r) {
      const v1::TensorResult& one = r.results(0);
      return one.status().code() != 0 ? Error(one.status().code(), one.status().message()) : json{{"version", one.info().version().number()}};
    });
  }

  json Move(std::istringstream& words, TransferKind kind) {
    Transfer transfer{.kind = kind};
    uint64_t bytes = 0;
    words >> transfer.grant >> transfer.runs.offset >> bytes;
    std::vector<char> memory(bytes, 'w');
    transfer.runs.run_bytes = bytes;
    transfer.memory = absl::MakeSpan(memory);
    lane_->Run(absl::MakeSpan(&transfer, 1), {.timeout = absl::Seconds(kSeconds)});
    if (!transfer.status.ok()) return Error(static_cast<int>(transfer.status.code()), std::string(transfer.status.message()));
    return {{"crc32", crc32(0, reinterpret_cast<const Bytef*>(memory.data()), static_cast<uInt>(bytes))}};
  }

  const std::unique_ptr<v1::Peer::Stub> stub_;
  std::string token_;
  std::string address_;
  std::unique_ptr<StreamLane> lane_;
};

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  penstock::Reader reader(argv[1]);
  for (std::string line; std::getline(std::cin, line);) std::cout << reader.Do(line).dump() << std::endl;
}
