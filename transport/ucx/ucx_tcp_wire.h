// What goes over the ucx-tcp lane: active messages of UCX, in bytes of the host's order (both ends are x86-64 or ARM64).
//
//   reader                                              owner
//   kHello    MessageHello   | worker address     ->    connects back
//   kRequest  MessageRequest, dims | [payload]    ->
//                                                 <-    kAnswer  MessageAnswer | payload, or an error's text
//
// A request is a chunk of a transfer, as on the stream lane (stream/stream_wire.h). All are eager: nothing that UCX does refers to
// memory at the other end.
//
// Threading:  plain structs
// Ownership:  values; copied out of a message before they are looked at
// Errors:     an answer's code is an absl::StatusCode; a message that cannot be read is dropped
// Limits:     kChunkBytes of payload a message
#ifndef PENSTOCK_TRANSPORT_UCX_UCX_TCP_WIRE_H_
#define PENSTOCK_TRANSPORT_UCX_UCX_TCP_WIRE_H_

#include <cstddef>
#include <cstdint>

#include "transport/lane/byte_runs.h"
#include "transport/lane/lane.h"

namespace penstock::ucx {

inline constexpr uint64_t kChunkBytes = uint64_t{256} << 10;

enum MessageId : unsigned { kHello = 1, kRequest = 2, kAnswer = 3 };

struct MessageHello {
  uint64_t reader;  // drawn by it
};
static_assert(sizeof(MessageHello) == 8);

struct MessageRequest {
  uint64_t reader;
  uint64_t request_id;
  LaneToken token;
  uint64_t grant;
  uint64_t offset;
  uint64_t run_bytes;
  uint64_t skip;
  uint64_t length;
  uint32_t kind;  // TransferKind
  uint32_t dim_count;
  RunDim dims[kMaxRunDims];  // the first dim_count are sent
};
static_assert(offsetof(MessageRequest, dims) == 80);

struct MessageAnswer {
  uint64_t request_id;
  uint64_t code;
};
static_assert(sizeof(MessageAnswer) == 16);

}  // namespace penstock::ucx

#endif  // PENSTOCK_TRANSPORT_UCX_UCX_TCP_WIRE_H_
