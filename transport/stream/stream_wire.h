// What goes over a stream connection. Little-endian, fixed sizes; the data port reads nothing else.
//
//   client                                   server
//   StreamHello (64 bytes)              ->
//   StreamRequest, dims, [payload]      ->   (may follow at once)
//                                       <-   StreamAnswer for the hello (request_id 0)
//                                       <-   StreamAnswer, [message | payload], in the order of the requests
//
//   StreamRequest   0 request_id | 8 kind | 9 dim_count | 10 zero | 16 grant | 24 offset | 32 run_bytes | 40 skip | 48 length
//   then dim_count times                0 count | 8 stride_bytes
//
// A chunk of a transfer is a request with the whole transfer's runs, and the [skip, skip + length) of their bytes.
// Steps of channels (kind kAwaitStep: grant; offset: the last step that the client has; the rest 0) are answered when there is
// one, in any order and between other answers:
//
//   StreamAnswer, StepHead, the step        its number is above that of the request and of all before it of this grant
//   StreamAnswer, StepHead                  flags kStepClosed: no further step will come
//
// Each request is answered by one step, so a client that does not ask gets none, and misses what the writer overwrites.
//
// The payload of a write that is refused is read and dropped; a malformed request ends the connection.
//
// Threading:  plain structs.
// Ownership:  values; copied out of the input before they are looked at.
// Errors:     an answer's code is an absl::StatusCode; its message is for people.
// Limits:     kMaxRunDims dimensions a request, kMaxMessageText bytes of message an answer.
#ifndef PENSTOCK_TRANSPORT_STREAM_STREAM_WIRE_H_
#define PENSTOCK_TRANSPORT_STREAM_STREAM_WIRE_H_

#include <cstddef>
#include <cstdint>

#include "transport/lane/byte_runs.h"

namespace penstock::stream {

inline constexpr uint64_t kHelloMagic = 0x31'4d'52'54'53'4e'45'50;  // "PENSTRM1"
inline constexpr uint32_t kProtocolVersion = 1;
inline constexpr size_t kJoinedBytes = size_t{64} << 10;  // what is short is sent together, up to this

inline constexpr uint8_t kAwaitStep = 3;             // after TransferKind's
inline constexpr uint64_t kMaxStep = uint64_t{1} << 60;  // twice it is a sequence (channel_layout.h)

struct StreamHello {
  uint64_t magic;
  uint32_t version;
  uint32_t reserved;
  uint8_t token[16];
  uint8_t zero[32];
};
static_assert(sizeof(StreamHello) == 64);

struct StreamRequest {
  uint64_t request_id;  // not 0
  uint8_t kind;         // TransferKind, or kAwaitStep
  uint8_t dim_count;
  uint8_t zero[6];
  uint64_t grant;
  uint64_t offset;
  uint64_t run_bytes;
  uint64_t skip;
  uint64_t length;
};
static_assert(sizeof(StreamRequest) == 56 && offsetof(StreamRequest, grant) == 16);
static_assert(sizeof(RunDim) == 16);

struct StreamAnswer {
  uint64_t request_id;
  int32_t code;            // absl::StatusCode
  uint32_t message_bytes;  // with an error
  uint64_t payload_bytes;  // of a read that goes well: its length; of a step: with its head
};
static_assert(sizeof(StreamAnswer) == 24);

enum StepFlags : uint32_t { kStepClosed = 1 };
struct StepHead {
  uint64_t seq;  // 0 with kStepClosed
  uint32_t flags;
  uint32_t zero;
};
static_assert(sizeof(StepHead) == 16);

inline constexpr size_t kMaxRequestBytes = sizeof(StreamRequest) + kMaxRunDims * sizeof(RunDim);
inline constexpr uint32_t kMaxMessageText = 1024;

}  // namespace penstock::stream

#endif  // PENSTOCK_TRANSPORT_STREAM_STREAM_WIRE_H_
