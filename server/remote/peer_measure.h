// PeerMeasure: how fast bytes come from another node, or get there (`penstock bench --from --to`).
//
// Goes the way of a fetch or of a put through a node: same session, same lane, memory of the arenas at both ends.
//
// Threading:  any thread; calls block.
// Ownership:  the store and the peers must outlive it. What it needs at the peer is a tensor kPrefix... with a time to live, deleted
//             at the end.
// Errors:     NOT_FOUND no such peer; UNAVAILABLE, RESOURCE_EXHAUSTED of either end; INVALID_ARGUMENT names the field
// Limits:     kMaxBytes a tensor, kMaxRounds; no new round begins after the time that is asked for, at most kLongest
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/remote/node_session.h"
#include "server/remote/peer_table.h"
#include "server/store/store.h"
#include "store.pb.h"

namespace penstock::server {

class PeerMeasure {
 public:
  static constexpr uint64_t kMaxBytes = uint64_t{4} << 30;
  static constexpr uint32_t kMaxRounds = 10'000;
  static constexpr absl::Duration kLongest = absl::Seconds(10);
  static constexpr char kPrefix[] = "penstock-bench/";

  PeerMeasure(Store* store, const PeerTable* peers) : peers_(peers), writer_(store, "bench") {}

  absl::Status Measure(const v1::MeasurePeerRequest& request, v1::MeasurePeerResponse* response);

 private:
  class Memory;
  absl::Status Read(PeerNode& peer, const v1::MeasurePeerRequest& request, Memory& memory, v1::MeasurePeerResponse* response);
  absl::Status Write(PeerNode& peer, const v1::MeasurePeerRequest& request, Memory& memory, v1::MeasurePeerResponse* response);

  const PeerTable* const peers_;
  NodeSession writer_;
};

}  // namespace penstock::server
