// PeerNode's reads: finding and pinning there, the bytes, and giving back.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <utility>

#include "proto/errors.h"
#include "proto/strcat.h"
#include "server/remote/peer_node.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kRdmaDown = absl::Seconds(10);  // how long the stream lane is used after a failure
constexpr int64_t kSlowestBytesPerSecond = 10'000'000;

}  // namespace

absl::StatusOr<PeerNode::Open> PeerNode::AskLocate(absl::Span<const Wanted> wanted, v1::LocateResponse* response) {
  v1::LocateRequest request;
  for (const Wanted& one : wanted) {
    v1::LocateItem* item = request.add_items();
    item->set_name(one.name);
    item->set_version(one.version);
    item->set_have_version(one.have_version);
    item->set_have_created_ns(one.have_created_ns);
    item->set_lease(one.lease);
    item->set_op_session(one.op.session);
    item->set_op_count(one.op.count);
    item->set_verify(one.verify);
  }
  absl::StatusOr<Open> session = AskInSession(&v1::Peer::Stub::Locate, request, response, kCallSeconds);
  if (session.ok() && response->results_size() != request.items_size()) {
    return absl::UnavailableError(StrCat("node ", address_, ": a malformed answer to Locate"));
  }
  return session;
}

std::vector<absl::StatusOr<PeerNode::Found>> PeerNode::Locate(absl::Span<const Wanted> wanted) {
  const absl::Time asked = MonotonicNow();
  v1::LocateResponse response;
  const absl::StatusOr<Open> session = AskLocate(wanted, &response);
  if (!session.ok()) return {wanted.size(), session.status()};
  std::vector<absl::StatusOr<Found>> found;
  int pinned = 0;
  for (v1::LocateResult& result : *response.mutable_results()) {
    if (result.status().code() != 0) {
      found.push_back(Decode(result.status()));
      continue;
    }
    if (!result.unchanged()) ++pinned;
    found.push_back(TakeFound(*session, &result, asked));
  }
  Count(session->token, pinned);
  return found;
}

PeerNode::Found PeerNode::TakeFound(const Open& session, v1::LocateResult* result, absl::Time asked) {
  Found found{.info = std::move(*result->mutable_info()), .grant = result->grant(), .lane = session.lane, .rdma = nullptr, .blocks = nullptr,
              .token = session.token, .unchanged = result->unchanged(),
              .lease = absl::Nanoseconds(static_cast<int64_t>(std::min<uint64_t>(result->lease_ns(), 60'000'000'000))), .asked = asked};
  if (session.rdma != nullptr && result->has_memory()) {
    found.rdma = session.rdma;
    found.blocks = session.blocks;
    found.blocks->Add(found.grant, {.address = result->memory().address(), .bytes = found.info.nbytes(), .key = result->memory().key(), .hold = nullptr});
  }
  return found;
}

// What was given to this session is refused to it: it is over, by its deadline or with the process that knew it.
absl::Status PeerNode::Lapsed(const std::string& token, const absl::Status& why) {
  Forget(token);
  return absl::UnavailableError(StrCat("node ", address_, ": the session there is over: ", std::string(why.message())));
}

RunOptions PeerNode::Patience(absl::Span<const Transfer> transfers, absl::Duration least) const {
  int64_t bytes = 0;
  for (const Transfer& transfer : transfers) bytes += static_cast<int64_t>(transfer.memory.size());
  return {.timeout = least + absl::Seconds(bytes / kSlowestBytesPerSecond), .cancelled = [this] { return stopping_.load(std::memory_order_relaxed); }};
}

void PeerNode::Move(Lane* lane, const std::string& token, absl::Span<Transfer> transfers, const RunOptions& options) {
  if (transfers.empty()) return;
  lane->Run(transfers, options);
  for (Transfer& transfer : transfers) {
    if (absl::IsPermissionDenied(transfer.status)) {
      transfer.status = Lapsed(token, transfer.status);
    } else if (!transfer.status.ok()) {
      transfer.status = absl::Status(transfer.status.code(), StrCat("node ", address_, ": ", std::string(transfer.status.message())));
    }
  }
}

void PeerNode::Read(absl::Span<Reading> readings) {
  std::vector<Reading*> by_rdma, by_stream;
  const bool rdma_up = RdmaIsUp();
  for (Reading& reading : readings) {
    reading.status = absl::OkStatus();
    if (reading.found->info.nbytes() == 0) continue;
    (rdma_up && reading.found->rdma != nullptr ? by_rdma : by_stream).push_back(&reading);
  }
  if (!by_rdma.empty()) ReadByRdma(by_rdma);
  // What the lane did not bring is read again over the other one; what it brought too late is not.
  for (Reading* reading : by_rdma) {
    if (reading->status.ok() || absl::IsUnavailable(reading->status)) continue;
    if (!reading->rdma_only) reading->status = absl::OkStatus();
    by_stream.push_back(reading);
  }
  std::erase_if(by_stream, [this](Reading* reading) {
    if (reading->rdma_only) reading->status = NoRdma();
    return reading->rdma_only;
  });
  if (!by_stream.empty()) ReadByStream(by_stream);
  std::lock_guard lock(mutex_);
  for (const Reading& reading : readings) {
    if (!reading.status.ok() || reading.found->info.nbytes() == 0) continue;
    ++reads_;
    if (reading.parts.empty()) read_bytes_ += reading.found->info.nbytes();
    for (const auto& [begin, end] : reading.parts) read_bytes_ += end - begin;
  }
  if (!by_rdma.empty() || !by_stream.empty()) lane_ = by_stream.empty() ? "rdma" : std::string(by_stream[0]->found->lane->name());
}

PeerNode::Moves PeerNode::MovesOf(absl::Span<Reading* const> readings) {
  Moves moves;
  for (Reading* reading : readings) {
    const uint64_t grant = reading->found->grant;
    const std::pair<uint64_t, uint64_t> all{0, reading->found->info.nbytes()};
    for (const auto& [begin, end] : reading->parts.empty() ? absl::MakeConstSpan(&all, 1) : absl::MakeConstSpan(reading->parts)) {
      moves.transfers.push_back({.grant = grant, .runs = {.offset = begin, .run_bytes = end - begin, .dims = {}}, .memory = {reading->to + begin, end - begin}});
      moves.of.push_back(reading);
    }
  }
  return moves;
}

void PeerNode::ReadByStream(absl::Span<Reading* const> readings) {
  Moves moves = MovesOf(readings);
  RunOptions options = Patience(moves.transfers, absl::Seconds(10));
  std::atomic<int64_t> last{absl::ToUnixNanos(MonotonicNow())};  // something came
  std::atomic<bool> stalled{false};
  absl::Duration stall = absl::InfiniteDuration();
  for (size_t i = 0; i < moves.transfers.size(); ++i) {
    const Reading& reading = *moves.of[i];
    if (!reading.arrived) continue;
    stall = std::min(stall, reading.stall);
    moves.transfers[i].arrived = [&last, &reading, begin = moves.transfers[i].runs.offset](uint64_t skip, uint64_t length) {
      last.store(absl::ToUnixNanos(MonotonicNow()), std::memory_order_relaxed);
      reading.arrived(begin + skip, begin + skip + length);
    };
  }
  if (stall < absl::InfiniteDuration()) {
    options.cancelled = [this, &last, &stalled, stall] {
      if (absl::FromUnixNanos(last.load(std::memory_order_relaxed)) + stall < MonotonicNow()) stalled.store(true);
      return stalled.load() || stopping_.load(std::memory_order_relaxed);
    };
  }
  Move(readings[0]->found->lane.get(), readings[0]->found->token, absl::MakeSpan(moves.transfers), options);
  for (size_t i = 0; i < moves.transfers.size(); ++i) {
    const absl::Status& status = moves.transfers[i].status;
    if (status.ok() || !moves.of[i]->status.ok()) continue;
    moves.of[i]->status = stalled.load() && absl::IsCancelled(status)
                              ? absl::UnavailableError(StrCat("node ", address_, ": has sent nothing for ", absl::FormatDuration(stall)))
                              : status;
  }
}

void PeerNode::ReadOffered(absl::Span<OfferedReading> readings) {
  const absl::Status up = CheckUp();
  const absl::StatusOr<Open> session = up.ok() ? Session() : up;
  std::vector<Transfer> transfers;
  for (OfferedReading& reading : readings) {
    reading.status = session.status();
    transfers.push_back({.grant = reading.offer, .runs = ByteRuns::Whole(reading.to.size()), .memory = reading.to});
  }
  if (!session.ok()) return;
  Move(session->lane.get(), session->token, absl::MakeSpan(transfers), Patience(transfers, absl::Seconds(10)));
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < readings.size(); ++i) {
    readings[i].status = transfers[i].status;
    if (!readings[i].status.ok()) continue;
    ++reads_;
    read_bytes_ += readings[i].to.size();
  }
  lane_ = session->lane->name();
}

bool PeerNode::RdmaIsUp() {
  std::lock_guard lock(mutex_);
  return MonotonicNow() >= rdma_down_until_;
}

void PeerNode::NoteRdmaFailure(const absl::Status& why) {
  rdma_down_until_ = MonotonicNow() + kRdmaDown;
  why_ = StrCat("a transfer failed: ", std::string(why.message()));
}

absl::Status PeerNode::NoRdma() const {
  std::lock_guard lock(mutex_);
  return TransportError(StrCat("node ", address_, ": RDMA is required (require_transport), but there is only the stream lane: ", why_));
}

// UNAVAILABLE: the bytes came too late; every other error: to be read over the stream lane.
void PeerNode::ReadByRdma(absl::Span<Reading* const> readings) {
  Moves moves = MovesOf(readings);
  readings[0]->found->rdma->Run(absl::MakeSpan(moves.transfers), Patience(moves.transfers, absl::Seconds(3)));
  std::lock_guard lock(mutex_);
  // The peer takes no part, so nobody else sees whether the bytes were still pinned when they were read.
  const bool in_time = open_.token == readings[0]->found->token && MonotonicNow() < open_.deadline;
  why_.clear();
  for (size_t i = 0; i < moves.transfers.size(); ++i) {
    if (!moves.transfers[i].status.ok()) {
      NoteRdmaFailure(moves.transfers[i].status);
      moves.of[i]->status = absl::UnknownError(why_);
    } else if (!in_time) {
      moves.of[i]->status = absl::UnavailableError(StrCat("node ", address_, ": the read ended after the session's deadline; what was read does not count"));
    }
  }
}

absl::StatusOr<PeerNode::Chain> PeerNode::JoinChain(const Found& found, const NodeUuid& self) {
  if (absl::Status s = CheckUp(); !s.ok()) return s;
  v1::JoinChainRequest request;
  request.set_grant(found.grant);
  request.set_node_id(std::string(self.begin(), self.end()));
  v1::JoinChainResponse response;
  grpc::ClientContext context;
  Prepare(&context, found.token);
  if (absl::Status s = Judge(peer_->JoinChain(&context, request, &response)); !s.ok()) return s;
  Chain chain{.ahead = std::nullopt, .ahead_count = response.place()};
  NodeUuid ahead{};
  if (response.ahead().size() == ahead.size()) {
    std::copy(response.ahead().begin(), response.ahead().end(), ahead.begin());
    chain.ahead = ahead;
  }
  return chain;
}

absl::StatusOr<PeerNode::Found> PeerNode::LocateCopy(const v1::TensorInfo& original) {
  v1::LocateCopyRequest request;
  request.set_name(original.name());
  request.set_version(original.version().number());
  request.set_created_ns(original.created_ns());
  v1::LocateCopyResponse response;
  const absl::StatusOr<Open> session = AskInSession(&v1::Peer::Stub::LocateCopy, request, &response, kCallSeconds);
  if (!session.ok()) return session.status();
  Found found{.info = original, .grant = response.grant(), .lane = session->lane, .rdma = nullptr, .blocks = nullptr, .token = session->token,
              .lease = absl::ZeroDuration(), .asked = MonotonicNow()};
  Count(session->token, 1);
  if (response.nbytes() != original.nbytes() || response.grant() == 0) {
    const Found* const all[] = {&found};
    Release(all);
    return absl::UnavailableError(StrCat("node ", address_, ": its copy of '", original.name(), "' has ", response.nbytes(), " bytes, not ", original.nbytes()));
  }
  return found;
}

void PeerNode::Release(absl::Span<const Found* const> all) {
  std::map<std::string, std::vector<uint64_t>> grants;  // by session
  for (const Found* found : all) {
    if (found->unchanged) continue;
    if (found->blocks != nullptr) found->blocks->Remove(found->grant);
    Count(found->token, -1);
    if (found->grant != 0) grants[found->token].push_back(found->grant);
  }
  for (const auto& [token, numbers] : grants) GiveBack(token, numbers);
}

// What the peer does not hear it is told when it answers again: the session may go on, and with it what is pinned there.
void PeerNode::GiveBack(const std::string& token, absl::Span<const uint64_t> numbers) {
  v1::ReleaseRequest request;
  request.mutable_grants()->Add(numbers.begin(), numbers.end());
  v1::ReleaseResponse response;
  grpc::ClientContext context;
  Prepare(&context, token);
  if (absl::IsUnavailable(Judge(peer_->Release(&context, request, &response)))) Owe(token, numbers);
}

void PeerNode::Owe(const std::string& token, absl::Span<const uint64_t> numbers) {
  std::lock_guard lock(mutex_);
  std::vector<uint64_t>& owed = owed_[token];
  owed.insert(owed.end(), numbers.begin(), numbers.end());
}

void PeerNode::GiveBackOwed(const std::string& token) {
  std::vector<uint64_t> owed;
  {
    std::lock_guard lock(mutex_);
    if (auto it = owed_.find(token); it != owed_.end()) {
      owed.swap(it->second);
      owed_.erase(it);
    }
  }
  if (!owed.empty()) GiveBack(token, owed);
}

}  // namespace penstock::server
