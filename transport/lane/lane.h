// Lane: moves bytes between this process's memory and blocks of another process, whatever the wire.
//
// Knows no names: what is read or written is a *grant*, a number that its owner gave out (over gRPC) together with a
// token; the owner decides on every request whether the holder of the token may use it. One conformance suite
// (tests/unit/transport/lane_conformance.h) is run over every lane.
//
//   Transfer read{.grant = 7, .runs = ByteRuns::Whole(n), .memory = {buffer, n}};
//   lane->Run(absl::MakeSpan(&read, 1), {.timeout = absl::Seconds(5)});
//   if (!read.status.ok()) ...
//
// Threading:  Run: any thread, many at a time; it returns when every transfer is over.
// Ownership:  the caller's memory is not touched any more once Run has returned.
// Errors:     each transfer's own status: UNAVAILABLE the peer is gone; DEADLINE_EXCEEDED not in time; CANCELLED;
//             PERMISSION_DENIED token or grant is not known (any more); INVALID_ARGUMENT runs outside of the block.
// Limits:     a transfer that failed may have changed a part of its destination.
#ifndef PENSTOCK_TRANSPORT_LANE_LANE_H_
#define PENSTOCK_TRANSPORT_LANE_LANE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "transport/lane/byte_runs.h"

namespace penstock {

enum class TransferKind : uint8_t { kRead = 1, kWrite = 2 };

struct Transfer {
  TransferKind kind = TransferKind::kRead;
  uint64_t grant = 0;
  ByteRuns runs;            // of the granted block
  absl::Span<char> memory;  // exactly runs.bytes(), packed; only read by a write
  // Told of bytes of a read, [skip, skip + length) of `memory`, as they come; on the threads that move them. May be empty; a lane
  // that brings all at once does not call it.
  std::function<void(uint64_t skip, uint64_t length)> arrived = {};
  absl::Status status = absl::OkStatus();  // after Run
};

struct RunOptions {
  absl::Duration timeout = absl::Seconds(5);
  // Asked now and then while Run waits; true ends it with CANCELLED.
  std::function<bool()> cancelled;
};

class Lane {
 public:
  virtual ~Lane() = default;
  virtual std::string_view name() const = 0;  // "stream", "rdma", "ucx-tcp"
  virtual void Run(absl::Span<Transfer> transfers, const RunOptions& options) = 0;
};

// --- the owner's side ---

using LaneToken = std::array<uint8_t, 16>;
using TlsIdentity = std::array<uint8_t, 16>;  // names a token to who knows it (stream/tls.h)

// What is there of a block that is still being filled. Any thread; does not block.
class GrowingBlock {
 public:
  virtual ~GrowingBlock() = default;
  // How many bytes from `offset` on are there; 0: none yet, and the server's bell is rung when more have come. An error: they
  // never will.
  virtual absl::StatusOr<uint64_t> Ready(uint64_t offset) = 0;
};

// A granted block while a transfer uses it: it stays valid and is not reused until this goes.
struct GrantedBlock {
  char* data = nullptr;
  uint64_t bytes = 0;
  std::shared_ptr<const void> hold;
  // Told of every write that came whole: `length` bytes of the runs, from the `skip`th on. May be empty.
  std::function<void(const ByteRuns& runs, uint64_t skip, uint64_t length)> wrote = {};
  // Null: all of it is there. Else only what this says may be read; kept by `hold`.
  GrowingBlock* growing = nullptr;
};

// A channel, for one connection that follows it: which step is next, where it lies, and room for a copy.
class StepSource {
 public:
  virtual ~StepSource() = default;
  virtual uint64_t nbytes() const = 0;  // of a step
  // One connection at a time may use the rest; false: another one does.
  virtual bool Claim() = 0;
  virtual void Unclaim() = 0;

  enum class State { kNothing, kStep, kClosed, kReleased };
  struct Next {
    State state = State::kNothing;
    uint64_t seq = 0;  // of kStep
  };
  // For one who has step `seq`: the one after it, or the newest one if that is lost.
  virtual Next After(uint64_t seq) const = 0;
  // Its writer may come round at any moment: IsWhole, asked after the bytes were copied, tells whether they are the step.
  virtual const char* data(uint64_t seq) const = 0;
  virtual bool IsWhole(uint64_t seq) const = 0;
  virtual char* copy() = 0;  // nbytes() of memory
};

// Who decides about requests. Called on the lane's threads, any number at a time; must not block.
class GrantTable {
 public:
  virtual ~GrantTable() = default;
  virtual bool KnowsToken(const LaneToken& token) = 0;
  // The known token with this identity; only asked where the stream lane speaks TLS.
  virtual std::optional<LaneToken> TokenOf(const TlsIdentity& identity) = 0;
  // PERMISSION_DENIED when the holder of the token may not do this with the grant.
  virtual absl::StatusOr<GrantedBlock> Use(const LaneToken& token, uint64_t grant, TransferKind kind) = 0;
  // Of a grant of a channel.
  virtual absl::StatusOr<std::shared_ptr<StepSource>> Follow(const LaneToken&, uint64_t) {
    return absl::PermissionDeniedError("grant: there are no channels here");
  }
};

}  // namespace penstock

#endif  // PENSTOCK_TRANSPORT_LANE_LANE_H_
