// Session: requests to the node through the submission ring.
#include <string.h>

#include <algorithm>

#include "client/session/session.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock::client {
namespace {

using layout::CreateResponse;
using layout::RingOp;

// Space for the answer; lists and batches have more to say.
uint32_t ResponseCapacity(rpc::Method method, size_t message_bytes) {
  switch (method) {
    case rpc::Method::kList:
    case rpc::Method::kSessions:
    case rpc::Method::kPins:
      return 1u << 20;
    case rpc::Method::kWatch:
      return 256u << 10;
    case rpc::Method::kWait:
      return 1u << 10;
    case rpc::Method::kStat:
    case rpc::Method::kDelete:
    case rpc::Method::kAllocate:
    case rpc::Method::kPublish:
      return static_cast<uint32_t>(std::min<size_t>(2u << 20, (64u << 10) + 16 * message_bytes));
    default:
      return 64u << 10;
  }
}

void FillCall(rpc::Method method, std::string_view message, RingRequest* request) {
  const layout::CallRequest call{static_cast<uint32_t>(method), static_cast<uint32_t>(message.size())};
  memcpy(request->body(), &call, sizeof(call));
  memcpy(request->body() + sizeof(call), message.data(), message.size());
}

uint32_t CallBytes(std::string_view message) { return static_cast<uint32_t>(sizeof(layout::CallRequest) + message.size()); }

}  // namespace

absl::Status Session::PrepareRing(const Deadline& deadline) {
  if (ended()) return EndedError();
  if (ring_.attached()) return absl::OkStatus();
  // A forked child has its pins from the hand-over, and gets its ring when it first needs one.
  std::lock_guard<std::mutex> lock(open_ring_mutex_);
  if (ring_.attached()) return absl::OkStatus();
  layout::HelloMessage message{};
  absl::StatusOr<FdReply> welcome =
      channel_.Call(message, layout::FdType::kOpenRing, {}, deadline);
  if (!welcome.ok()) return welcome.status();
  return TakeWelcome(*std::move(welcome), /*first=*/false);
}

absl::StatusOr<RingRequest> Session::Request(const RingRequestSizes& sizes,
                                             const Deadline& deadline) {
  if (absl::Status s = PrepareRing(deadline); !s.ok()) return s;
  return ring_.Allocate(sizes, deadline);
}

absl::StatusOr<RingRequest> Session::LookupRequest(RingOp op, std::string_view name, uint64_t version,
                                                   const Deadline& deadline) {
  layout::LookupRequest lookup{version, static_cast<uint32_t>(name.size()), 0};
  absl::StatusOr<RingRequest> request = Request(
      {.op = op, .request_bytes = static_cast<uint32_t>(sizeof(lookup) + name.size())}, deadline);
  if (!request.ok()) return request;
  memcpy(request->body(), &lookup, sizeof(lookup));
  memcpy(request->body() + sizeof(lookup), name.data(), name.size());
  return request;
}

absl::StatusOr<layout::LookupResponse> Session::Lookup(RingOp op, std::string_view name,
                                                       uint64_t version,
                                                       const Deadline& deadline) {
  absl::StatusOr<RingRequest> request = LookupRequest(op, name, version, deadline);
  if (!request.ok()) return request.status();
  request->Submit();
  if (absl::Status s = request->Wait(deadline); !s.ok()) return s;
  return request->ResponseAs<layout::LookupResponse>();
}

absl::StatusOr<std::string> Session::Call(rpc::Method method, std::string_view message,
                                          const Deadline& deadline) {
  if (message.size() > (4u << 20)) {
    return absl::InvalidArgumentError(
        StrCat("a call with a message of ", message.size(), " bytes; at most 4 MiB are possible"));
  }
  absl::StatusOr<RingRequest> request = Request(
      {.op = RingOp::kCall,
       .request_bytes = CallBytes(message),
       .response_bytes = ResponseCapacity(method, message.size())},
      deadline);
  if (!request.ok()) return request.status();
  FillCall(method, message, &*request);
  request->Submit();
  if (absl::Status s = request->Wait(deadline); !s.ok()) return s;
  return std::string(request->response());
}

void Session::Post(rpc::Method method, std::string_view message) {
  absl::StatusOr<RingRequest> request = Request(
      {.op = RingOp::kCall, .request_bytes = CallBytes(message)}, Deadline::After(absl::Seconds(5)));
  if (!request.ok()) return;
  FillCall(method, message, &*request);
  request->Submit();
}

absl::StatusOr<CreateResponse> Session::Reserve(uint32_t request_bytes,
                                                const std::function<void(char* body)>& fill,
                                                const Deadline& deadline) {
  const auto reserve = [&]() -> absl::StatusOr<CreateResponse> {
    absl::StatusOr<RingRequest> request =
        Request({.op = RingOp::kReserve, .request_bytes = request_bytes}, deadline);
    if (!request.ok()) return request.status();
    fill(request->body());
    request->Submit();
    if (absl::Status s = request->Wait(deadline); !s.ok()) return s;
    return request->ResponseAs<CreateResponse>();
  };
  absl::StatusOr<CreateResponse> reserved = reserve();
  if (!reserved.ok() || reserved->need_extent_bytes == 0) return reserved;
  // One thread opens the extent that others may have been waiting for as well.
  std::lock_guard<std::mutex> lock(extent_mutex_);
  while (true) {
    reserved = reserve();
    if (!reserved.ok() || reserved->need_extent_bytes == 0) return reserved;
    const auto extent = segments_.OpenExtent(reserved->need_extent_bytes, deadline);
    // Not found: the node died while the extent was being opened; the next one knows nothing of it.
    if (!extent.ok() && (!absl::IsNotFound(extent.status()) || deadline.Passed())) {
      return extent.status();
    }
  }
}

absl::StatusOr<CreateResponse> Session::Publish(layout::RecordRef record, uint64_t seq,
                                                const Deadline& deadline) {
  const layout::DraftRequest draft{record, 0, seq};
  absl::StatusOr<RingRequest> request =
      Request({.op = RingOp::kPublish, .request_bytes = sizeof(draft)}, deadline);
  if (!request.ok()) return request.status();
  memcpy(request->body(), &draft, sizeof(draft));
  PENSTOCK_FAULT_POINT("client.publish.before");
  request->Submit();
  PENSTOCK_FAULT_POINT("client.publish.submitted");
  if (absl::Status s = request->Wait(deadline); !s.ok()) return s;
  return request->ResponseAs<CreateResponse>();
}

void Session::AbortDraft(layout::RecordRef record, uint64_t seq) {
  const layout::DraftRequest draft{record, 0, seq};
  absl::StatusOr<RingRequest> request = Request(
      {.op = RingOp::kAbort, .request_bytes = sizeof(draft)}, Deadline::After(absl::Seconds(5)));
  // A session that cannot say it has ended, which aborts its drafts as well.
  if (!request.ok()) return;
  memcpy(request->body(), &draft, sizeof(draft));
  PENSTOCK_FAULT_POINT("client.abort.before");
  request->Submit();
}

}  // namespace penstock::client
