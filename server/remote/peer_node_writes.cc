// PeerNode's writes: drafts there, their bytes, and publishing them.
#include <grpcpp/grpcpp.h>

#include <utility>

#include "proto/strcat.h"
#include "server/remote/peer_node.h"

namespace penstock::server {

namespace {
constexpr uint64_t kLeastRdmaBytes = uint64_t{64} << 10;  // less is not worth a registration there

Published PublishedThere(const v1::TensorInfo& info, const NodeUuid& home) {
  return {.version_term = info.version().term(), .version_number = info.version().number(), .created_ns = info.created_ns(), .home = home};
}

}  // namespace

std::vector<absl::StatusOr<PeerNode::Reserved>> PeerNode::Reserve(absl::Span<const Reserving> items) {
  v1::ReserveDraftsRequest request;
  const bool rdma_up = RdmaIsUp();
  for (const Reserving& reserving : items) {
    v1::ReserveItem* item = request.add_items();
    *item->mutable_spec() = *reserving.spec;
    item->set_if_home(reserving.if_home);
    item->set_request_key(reserving.request_key);
    item->set_rdma(can_.rdma != nullptr && rdma_up && (reserving.rdma_only || reserving.nbytes >= kLeastRdmaBytes));
  }
  v1::ReserveDraftsResponse response;
  absl::StatusOr<Open> session = AskInSession(&v1::Peer::Stub::ReserveDrafts, request, &response, kReserveSeconds);
  if (session.ok() && response.results_size() != request.items_size()) {
    session = absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to ReserveDrafts"));
  }
  if (!session.ok()) return {items.size(), session.status()};
  std::vector<absl::StatusOr<Reserved>> all;
  int drafts = 0;
  for (const v1::ReserveResult& result : response.results()) {
    if (result.status().code() != 0) {
      all.push_back(Decode(result.status()));
      continue;
    }
    Reserved reserved{.draft = result.draft(), .published = std::nullopt, .lane = session->lane, .rdma = nullptr, .blocks = nullptr,
                      .token = session->token, .home = session->id};
    if (result.has_published()) {
      reserved.published = PublishedThere(result.published(), session->id);
    } else {
      ++drafts;
      if (session->rdma != nullptr && result.has_memory()) {
        reserved.rdma = session->rdma;
        reserved.blocks = session->blocks;
        reserved.blocks->Add(reserved.draft, {.address = result.memory().address(), .bytes = items[all.size()].nbytes, .key = result.memory().key(), .hold = nullptr},
                             TransferKind::kWrite);
      }
    }
    all.push_back(std::move(reserved));
  }
  Count(session->token, drafts);
  return all;
}

void PeerNode::Write(absl::Span<Writing> writings) {
  std::vector<Writing*> by_rdma, by_stream;
  for (Writing& writing : writings) {
    writing.status = absl::OkStatus();
    if (writing.bytes.empty()) continue;
    (writing.reserved->rdma != nullptr ? by_rdma : by_stream).push_back(&writing);
  }
  if (!by_rdma.empty()) WriteByRdma(by_rdma);
  // What the lane did not bring is written again over the other one: whatever may still arrive are the same bytes.
  for (Writing* writing : by_rdma) {
    if (!writing->status.ok()) by_stream.push_back(writing);
  }
  std::erase_if(by_stream, [this](Writing* writing) {
    if (writing->rdma_only) writing->status = NoRdma();
    return writing->rdma_only;
  });
  if (by_stream.empty()) return;
  std::vector<Transfer> transfers = TransfersOf(by_stream);
  Move(by_stream[0]->reserved->lane.get(), by_stream[0]->reserved->token, absl::MakeSpan(transfers), Patience(transfers, absl::Seconds(10)));
  for (size_t i = 0; i < by_stream.size(); ++i) by_stream[i]->status = transfers[i].status;
}

std::vector<Transfer> PeerNode::TransfersOf(absl::Span<Writing* const> writings) {
  std::vector<Transfer> transfers;
  for (const Writing* writing : writings) {
    transfers.push_back({.kind = TransferKind::kWrite, .grant = writing->reserved->draft, .runs = ByteRuns::Whole(writing->bytes.size()),
                         .memory = {const_cast<char*>(writing->bytes.data()), writing->bytes.size()}});  // a write only reads its memory
  }
  return transfers;
}

void PeerNode::WriteByRdma(absl::Span<Writing* const> writings) {
  std::vector<Transfer> transfers = TransfersOf(writings);
  writings[0]->reserved->rdma->Run(absl::MakeSpan(transfers), Patience(transfers, absl::Seconds(3)));
  std::lock_guard lock(mutex_);
  why_.clear();
  for (size_t i = 0; i < writings.size(); ++i) {
    writings[i]->status = transfers[i].status;
    writings[i]->reserved->written_by_rdma = transfers[i].status.ok();
    if (!transfers[i].status.ok()) NoteRdmaFailure(transfers[i].status);
  }
}

std::vector<absl::StatusOr<Published>> PeerNode::Publish(absl::Span<const Reserved* const> reserved) {
  v1::PublishDraftsRequest request;
  for (const Reserved* one : reserved) {
    request.add_drafts(one->draft);
    if (one->written_by_rdma) request.add_written_by_rdma(one->draft);
    if (one->blocks != nullptr) one->blocks->Remove(one->draft);
  }
  Count(reserved[0]->token, -static_cast<int>(reserved.size()));
  v1::PublishDraftsResponse response;
  grpc::ClientContext context;
  Prepare(&context, reserved[0]->token);
  absl::Status asked = Judge(peer_->PublishDrafts(&context, request, &response));
  if (absl::IsPermissionDenied(asked)) {
    asked = Lapsed(reserved[0]->token, asked);
  } else if (!asked.ok()) {
    Owe(reserved[0]->token, absl::MakeConstSpan(request.drafts().data(), static_cast<size_t>(request.drafts_size())));
    asked = absl::Status(asked.code(), StrCat(std::string(asked.message()), "; whether it was published there is not known"));
  } else if (response.results_size() != request.drafts_size()) {
    asked = absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to PublishDrafts"));
  }
  if (!asked.ok()) return {reserved.size(), asked};
  std::vector<absl::StatusOr<Published>> published;
  for (const v1::TensorResult& result : response.results()) {
    if (result.status().code() != 0) {
      published.push_back(Decode(result.status()));
    } else {
      published.push_back(PublishedThere(result.info(), reserved[0]->home));
    }
  }
  return published;
}

void PeerNode::Abort(absl::Span<const Reserved* const> reserved) {
  if (reserved.empty()) return;
  std::vector<uint64_t> drafts;
  for (const Reserved* one : reserved) {
    drafts.push_back(one->draft);
    if (one->blocks != nullptr) one->blocks->Remove(one->draft);
  }
  Count(reserved[0]->token, -static_cast<int>(drafts.size()));
  GiveBack(reserved[0]->token, drafts);
}

}  // namespace penstock::server
