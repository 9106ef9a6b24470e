#include "server/remote/peer_measure.h"

#include <atomic>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace {

constexpr absl::Duration kTimeToLive = absl::Minutes(2);  // of what a measurement left behind, if this process dies

std::string NewName() {
  static std::atomic<uint64_t> next{0};
  return StrCat(PeerMeasure::kPrefix, absl::ToUnixNanos(absl::Now()), "-", next.fetch_add(1));
}

v1::CreateSpec SpecOf(const std::string& name, uint64_t bytes) {
  v1::CreateSpec spec;
  spec.set_name(name);
  spec.set_dtype(static_cast<uint32_t>(DType::kU8));
  spec.add_shape(static_cast<int64_t>(bytes));
  spec.set_ttl_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(kTimeToLive)));
  spec.set_keep(false);
  spec.set_replicas(1);
  return spec;
}

absl::Status Check(const v1::MeasurePeerRequest& request) {
  if (request.bytes() == 0 || request.bytes() > PeerMeasure::kMaxBytes) {
    return absl::InvalidArgumentError(StrCat("bytes: ", request.bytes(), " is not allowed; ask for 1 to ", PeerMeasure::kMaxBytes));
  }
  if (request.rounds() == 0 || request.rounds() > PeerMeasure::kMaxRounds) {
    return absl::InvalidArgumentError(StrCat("rounds: ", request.rounds(), " is not allowed; ask for 1 to ", PeerMeasure::kMaxRounds));
  }
  return absl::OkStatus();
}

// Calls `round` until it fails, or often enough, or long enough; the time of each goes into the response.
template <class Round>
absl::Status Repeat(const v1::MeasurePeerRequest& request, v1::MeasurePeerResponse* response, const Round& round) {
  const absl::Time end = MonotonicNow() + std::min(absl::Nanoseconds(static_cast<int64_t>(request.limit_ns())), PeerMeasure::kLongest);
  for (uint32_t i = 0; i < request.rounds() && (i == 0 || MonotonicNow() < end); ++i) {
    absl::Duration took;
    if (absl::Status s = round(&took); !s.ok()) return s;
    response->add_round_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(took)));
  }
  return absl::OkStatus();
}

}  // namespace

// A block of this node's, for as long as a measurement lasts.
class PeerMeasure::Memory {
 public:
  static absl::StatusOr<Memory> Reserve(NodeSession* writer, const std::string& name, uint64_t bytes) {
    const absl::StatusOr<Shape> shape = Shape::Create({static_cast<int64_t>(bytes)});
    if (!shape.ok()) return shape.status();
    const absl::StatusOr<Placed> placed = writer->Reserve({.name = name, .dtype = DType::kU8, .shape = *shape, .nbytes = bytes, .keep = false}, Store::kMemoryWait);
    if (!placed.ok()) return placed.status();
    std::memset(placed->block.address, 0x5A, bytes);  // nothing of an earlier tensor leaves this node
    return Memory(writer, *placed, bytes);
  }
  Memory(Memory&& other) noexcept : writer_(std::exchange(other.writer_, nullptr)), placed_(other.placed_), bytes_(other.bytes_) {}
  Memory& operator=(Memory&&) = delete;
  ~Memory() {
    if (writer_ != nullptr) writer_->Abort(placed_);
  }
  char* data() const { return placed_.block.address; }
  absl::Span<const char> bytes() const { return {data(), bytes_}; }

 private:
  Memory(NodeSession* writer, const Placed& placed, uint64_t bytes) : writer_(writer), placed_(placed), bytes_(bytes) {}
  NodeSession* writer_;
  Placed placed_;
  uint64_t bytes_;
};

absl::Status PeerMeasure::Measure(const v1::MeasurePeerRequest& request, v1::MeasurePeerResponse* response) {
  if (absl::Status s = Check(request); !s.ok()) return s;
  for (const PeerRef& peer : peers_->Now()) {
    if (peer->address() != request.peer()) continue;
    absl::StatusOr<Memory> memory = Memory::Reserve(&writer_, NewName(), request.bytes());
    if (!memory.ok()) return memory.status();
    const absl::Status measured = request.write() ? Write(*peer, request, *memory, response) : Read(*peer, request, *memory, response);
    v1::PeerInfo told;
    peer->Tell(&told);
    response->set_why(told.why());
    return measured;
  }
  return absl::NotFoundError(StrCat("peer: '", request.peer(), "' is none of the other nodes that this one knows"));
}

absl::Status PeerMeasure::Write(PeerNode& peer, const v1::MeasurePeerRequest& request, Memory& memory, v1::MeasurePeerResponse* response) {
  const v1::CreateSpec spec = SpecOf(NewName(), request.bytes());
  return Repeat(request, response, [&](absl::Duration* took) {
    const PeerNode::Reserving item{.spec = &spec, .nbytes = request.bytes(), .if_home = false};
    absl::StatusOr<PeerNode::Reserved> draft = std::move(peer.Reserve({&item, 1})[0]);
    if (!draft.ok()) return draft.status();
    PeerNode::Writing writing{.reserved = &*draft, .bytes = memory.bytes()};
    const absl::Time start = MonotonicNow();
    peer.Write({&writing, 1});
    *took = MonotonicNow() - start;
    response->set_lane(std::string(draft->written_by_rdma ? "rdma" : draft->lane->name()));
    const PeerNode::Reserved* const done = &*draft;
    peer.Abort({&done, 1});
    return writing.status;
  });
}

absl::Status PeerMeasure::Read(PeerNode& peer, const v1::MeasurePeerRequest& request, Memory& memory, v1::MeasurePeerResponse* response) {
  const v1::CreateSpec spec = SpecOf(NewName(), request.bytes());
  const PeerNode::Reserving item{.spec = &spec, .nbytes = request.bytes(), .if_home = false};
  absl::StatusOr<PeerNode::Reserved> draft = std::move(peer.Reserve({&item, 1})[0]);
  if (!draft.ok()) return draft.status();
  PeerNode::Writing writing{.reserved = &*draft, .bytes = memory.bytes()};
  peer.Write({&writing, 1});
  const PeerNode::Reserved* const written = &*draft;
  if (!writing.status.ok()) {
    peer.Abort({&written, 1});
    return writing.status;
  }
  if (absl::StatusOr<Published> s = std::move(peer.Publish({&written, 1})[0]); !s.ok()) return s.status();
  const absl::Cleanup drop = [&] {
    v1::DeleteRequest request_there;
    request_there.add_items()->set_name(spec.name());
    v1::DeleteResponse ignored;
    peer.Ask(&v1::Store::Stub::Delete, request_there, &ignored).IgnoreError();  // else its time to live ends
  };
  const PeerNode::Wanted wanted{.name = spec.name()};
  const absl::StatusOr<PeerNode::Found> found = std::move(peer.Locate({&wanted, 1})[0]);
  if (!found.ok()) return found.status();
  const absl::Status read = Repeat(request, response, [&](absl::Duration* took) {
    PeerNode::Reading reading{.found = &*found, .to = memory.data()};
    const absl::Time start = MonotonicNow();
    peer.Read({&reading, 1});
    *took = MonotonicNow() - start;
    return reading.status;
  });
  const PeerNode::Found* const over = &*found;
  peer.Release({&over, 1});
  v1::PeerInfo told;
  peer.Tell(&told);
  response->set_lane(told.lane());
  return read;
}

}  // namespace penstock::server
