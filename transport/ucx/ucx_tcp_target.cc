#include "transport/ucx/ucx_tcp_target.h"

#include <arpa/inet.h>
#include <ifaddrs.h>

#include <cstring>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/ucx/ucp_endpoint.h"
#include "transport/ucx/ucx_tcp_wire.h"

namespace penstock {

using ucx::MessageAnswer;
using ucx::MessageHello;
using ucx::MessageRequest;
using ucx::UcpContext;
using ucx::UcpEndpoint;
using ucx::UcpRequest;
using ucx::UcpWorker;

namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(50);

// The device with this address of IPv4 or IPv6; empty: none.
std::string DeviceOf(const std::string& host) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  std::string found;
  for (const ifaddrs* one = all; one != nullptr && found.empty(); one = one->ifa_next) {
    if (one->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN] = {};
    const void* address = nullptr;
    if (one->ifa_addr->sa_family == AF_INET) address = &reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr;
    if (one->ifa_addr->sa_family == AF_INET6) address = &reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr;
    if (address != nullptr && inet_ntop(one->ifa_addr->sa_family, address, text, sizeof(text)) != nullptr && host == text) found = one->ifa_name;
  }
  freeifaddrs(all);
  return found;
}

}  // namespace

absl::StatusOr<std::shared_ptr<UcpContext>> OpenUcxTcp(const std::string& host) {
  // Without copies UCX 1.13 ends the process (an assertion) when the other end breaks off in the middle of a message.
  const UcpContext::Setting copies{"ZCOPY_THRESH", "inf", true, true};
  if (host.empty() || host == "0.0.0.0" || host == "::") return UcpContext::Open("tcp", {&copies, 1}, UCP_FEATURE_AM);
  const std::string device = DeviceOf(host);
  if (device.empty()) return absl::NotFoundError(absl::StrCat("ucx-tcp: no network device of this host has the address ", host));
  const UcpContext::Setting settings[] = {copies, {"NET_DEVICES", device.c_str(), true, true}};
  return UcpContext::Open("tcp", settings, UCP_FEATURE_AM);
}

// All of it on the target's thread.
class UcxTcpTarget::Service {
 public:
  Service(std::unique_ptr<UcpWorker> worker, GrantTable* grants) : grants_(grants), worker_(std::move(worker)) {}

  ~Service() {
    std::vector<std::unique_ptr<UcpEndpoint>> closing;
    for (auto& [reader, endpoint] : std::exchange(readers_, {})) closing.push_back(std::move(endpoint));
    closing.clear();  // ends what is being sent
    while (!sending_.empty()) {
      worker_->Progress();
      Reap();
    }
  }

  absl::Status Listen() {
    if (absl::Status s = worker_->OnActiveMessage(ucx::kHello, &Service::OnHello, this); !s.ok()) return s;
    return worker_->OnActiveMessage(ucx::kRequest, &Service::OnRequest, this);
  }
  UcpWorker& worker() { return *worker_; }

  void Reap() {
    std::erase_if(sending_, [](const Sending& one) { return one.request.Check() != UCS_INPROGRESS; });
    std::vector<std::unique_ptr<UcpEndpoint>> failed;  // closing makes progress, and that may bring new readers
    for (auto it = readers_.begin(); it != readers_.end();) {
      const auto here = it++;
      if (!here->second->failed()) continue;
      failed.push_back(std::move(here->second));
      readers_.erase(here);
    }
  }

 private:
  // What UCX may still look at.
  struct Sending {
    MessageAnswer header;
    std::string owned;                 // the payload, unless it is the block's
    std::shared_ptr<const void> hold;  // of the block
    UcpRequest request;
  };

  static ucs_status_t OnHello(void* self, const void* header, size_t header_bytes, void* data, size_t bytes, const ucp_am_recv_param_t* param) {
    MessageHello hello;
    if (header_bytes != sizeof(hello) || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
    std::memcpy(&hello, header, sizeof(hello));
    static_cast<Service*>(self)->Hello(hello, std::string(static_cast<const char*>(data), bytes));
    return UCS_OK;
  }

  static ucs_status_t OnRequest(void* self, const void* header, size_t header_bytes, void* data, size_t bytes, const ucp_am_recv_param_t* param) {
    constexpr size_t kFixed = offsetof(MessageRequest, dims);
    MessageRequest request{};
    if (header_bytes < kFixed || header_bytes > sizeof(request) || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
    std::memcpy(&request, header, header_bytes);
    if (request.dim_count > kMaxRunDims || header_bytes != kFixed + request.dim_count * sizeof(RunDim)) return UCS_OK;
    static_cast<Service*>(self)->Answer(request, {static_cast<const char*>(data), bytes});
    return UCS_OK;
  }

  void Hello(const MessageHello& hello, const std::string& address) {
    if (readers_.size() >= kMaxReaders || readers_.contains(hello.reader)) return;
    absl::StatusOr<std::unique_ptr<UcpEndpoint>> endpoint = UcpEndpoint::Connect(worker_.get(), address);
    if (endpoint.ok()) readers_.emplace(hello.reader, *std::move(endpoint));
  }

  void Answer(const MessageRequest& request, absl::Span<const char> payload) {
    const auto reader = readers_.find(request.reader);
    if (reader == readers_.end() || reader->second->failed()) return;  // nobody to answer to
    Sending& sending = sending_.emplace_back();
    absl::StatusOr<absl::Span<const char>> answer = Move(request, payload, &sending);
    if (!answer.ok()) {
      sending.header.code = static_cast<uint64_t>(answer.status().code());
      sending.owned = std::string(answer.status().message());
      answer = absl::MakeConstSpan(sending.owned.data(), sending.owned.size());
    }
    sending.header.request_id = request.request_id;
    sending.request = reader->second->SendMessage(ucx::kAnswer, {reinterpret_cast<const char*>(&sending.header), sizeof(sending.header)}, *answer);
  }

  // Does the chunk; what is to be sent of it lies in the block or in `sending`.
  absl::StatusOr<absl::Span<const char>> Move(const MessageRequest& request, absl::Span<const char> payload, Sending* sending) {
    const bool write = request.kind == static_cast<uint32_t>(TransferKind::kWrite);
    if (!write && request.kind != static_cast<uint32_t>(TransferKind::kRead)) return absl::InvalidArgumentError("kind: neither a read nor a write");
    ByteRuns runs{.offset = request.offset, .run_bytes = request.run_bytes, .dims = {request.dims, request.dims + request.dim_count}};
    absl::StatusOr<GrantedBlock> block = grants_->Use(request.token, request.grant, write ? TransferKind::kWrite : TransferKind::kRead);
    if (!block.ok()) return block.status();
    if (block->growing != nullptr) return absl::UnavailableError("grant: of a copy that grows, for the stream lane");
    if (absl::Status s = runs.CheckWithin(block->bytes); !s.ok()) return s;
    if (request.length > ucx::kChunkBytes || request.skip > runs.bytes() || request.length > runs.bytes() - request.skip) {
      return absl::InvalidArgumentError("length: is more than a chunk, or than the runs have");
    }
    if (payload.size() != (write ? request.length : 0)) return absl::InvalidArgumentError("payload: is not of the length that was said");
    RunCursor cursor(runs, request.skip);
    if (write) {
      for (uint64_t done = 0; done < request.length;) {
        const RunCursor::Piece piece = cursor.Next(request.length - done);
        std::memcpy(block->data + piece.offset, payload.data() + done, piece.length);
        done += piece.length;
      }
      if (block->wrote) block->wrote(runs, request.skip, request.length);
      return absl::Span<const char>();
    }
    if (request.length == 0) return absl::Span<const char>();
    sending->hold = block->hold;  // of a write nothing is held any more when it is answered
    const RunCursor::Piece first = cursor.Next(request.length);
    if (first.length == request.length) return absl::MakeConstSpan(block->data + first.offset, request.length);
    sending->owned.assign(block->data + first.offset, first.length);
    while (sending->owned.size() < request.length) {
      const RunCursor::Piece piece = cursor.Next(request.length - sending->owned.size());
      sending->owned.append(block->data + piece.offset, piece.length);
    }
    return absl::MakeConstSpan(sending->owned.data(), sending->owned.size());
  }

  GrantTable* const grants_;
  const std::unique_ptr<UcpWorker> worker_;
  std::map<uint64_t, std::unique_ptr<UcpEndpoint>> readers_;
  std::list<Sending> sending_;
};

absl::StatusOr<std::unique_ptr<UcxTcpTarget>> UcxTcpTarget::Start(std::shared_ptr<UcpContext> context, GrantTable* grants) {
  absl::StatusOr<std::unique_ptr<UcpWorker>> worker = UcpWorker::Create(std::move(context));
  if (!worker.ok()) return worker.status();
  absl::StatusOr<std::string> address = (*worker)->Address();
  if (!address.ok()) return address.status();
  auto service = std::make_unique<Service>(*std::move(worker), grants);
  if (absl::Status s = service->Listen(); !s.ok()) return s;
  return std::unique_ptr<UcxTcpTarget>(new UcxTcpTarget(std::move(service), *std::move(address)));
}

UcxTcpTarget::UcxTcpTarget(std::unique_ptr<Service> service, std::string address)
    : service_(std::move(service)), address_(std::move(address)), thread_([this] { Serve(); }) {}

UcxTcpTarget::~UcxTcpTarget() {
  stopping_.store(true);
  service_->worker().Signal();
  thread_.join();
}

void UcxTcpTarget::Serve() {
  UcpWorker& worker = service_->worker();
  while (!stopping_.load()) {
    while (!stopping_.load() && worker.Progress()) service_->Reap();
    service_->Reap();
    if (worker.Arm()) worker.Wait(kPoll);
  }
}

}  // namespace penstock
