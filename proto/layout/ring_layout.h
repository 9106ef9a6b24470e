// The submission ring of a session as it lies in shared memory: request queue and staging area.
//
// A local client asks its node through it instead of paying a gRPC call. Client and node map the same memfd; the node
// takes every word of it as hostile. The client allocates a *request block* in the staging area, fills it, puts its
// position into the queue, and waits on the block's own `state` word; the node answers into the same block. So
// requests complete in any order, and any number may be in flight.
//
//   client: block.state = kPending; fill; queue[tail % N] = offset; tail += 1 (seq_cst)
//           if header.node_sleeping (seq_cst) -> write 1 to the session's eventfd
//   node:   takes queue[head % N]; copies the request out before checking it; executes; writes the response;
//           exchange(state, kDone), futex wake if it was kWaiting; head += 1 only after the request was answered or
//           parked, so that a node killed in between executes it again (requests are idempotent by request_id),
//           unless its state is kDone: then it was answered, and later requests may build on that
//   client: spins briefly, then CAS(state, kPending -> kWaiting) and futex-waits on it
//
// Threading:  one node thread; the client's threads under a mutex of the client for allocation and the queue's tail.
// Ownership:  the staging area is the client's; a block may be reused once its state is kDone and head has passed it.
// Errors:     a malformed block is answered with INVALID_ARGUMENT when it can be, else the session is cut off.
// Limits:     kQueueEntries requests in flight; a put of at most kMaxStagedPut bytes of data.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "proto/layout/catalog_layout.h"

namespace penstock::layout {

inline constexpr uint64_t kRingMagic = 0x31474e4952534e50;  // "PNSRING1"
inline constexpr uint32_t kQueueEntries = 4096;
inline constexpr uint64_t kStagingBytes = uint64_t{8} << 20;
inline constexpr uint64_t kMaxStagedPut = uint64_t{1} << 20;
inline constexpr uint64_t kBlockUnit = 64;  // request blocks start at multiples of it

struct RingHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t queue_entries;
  uint64_t ring_bytes;      // whole memfd
  uint64_t staging_offset;  // of the staging area in the memfd
  uint64_t staging_bytes;
  alignas(64) std::atomic<uint32_t> tail;           // client
  alignas(64) std::atomic<uint32_t> head;           // node
  alignas(64) std::atomic<uint32_t> node_sleeping;  // node: 1 = write the eventfd after a submit
  alignas(64) uint32_t queue[kQueueEntries];        // block offset from the memfd's start / kBlockUnit
};
static_assert(offsetof(RingHeader, tail) == 64 && offsetof(RingHeader, queue) == 256);
inline constexpr uint64_t kRingStagingOffset = 20480;
static_assert(sizeof(RingHeader) <= kRingStagingOffset && kRingStagingOffset % 4096 == 0);
inline constexpr uint64_t kRingBytes = kRingStagingOffset + kStagingBytes;

enum class RingOp : uint32_t {
  kPut = 1,      // CreateRequest + data at data_offset -> CreateResponse
  kReserve = 2,  // CreateRequest -> CreateResponse with a draft to be filled (or need_extent_bytes)
  kPublish = 3,  // DraftRequest -> CreateResponse
  kAbort = 4,    // DraftRequest -> nothing
  kLookup = 5,   // LookupRequest -> LookupResponse
  kDelete = 6,   // LookupRequest -> LookupResponse of what was deleted
  kCall = 7,     // CallRequest + serialized protobuf message -> serialized protobuf message (rpc method table)
};

enum class BlockState : uint32_t { kFree = 0, kPending = 1, kWaiting = 2, kDone = 3 };

struct alignas(64) RequestBlock {
  std::atomic<uint32_t> state;  // BlockState
  uint32_t op;                  // RingOp
  uint32_t block_bytes;         // whole block, this header included
  uint32_t request_bytes;       // of the request that follows this header (fixed struct and what follows it)
  uint64_t request_id;          // unique in the session, never 0; the same for a repetition
  uint32_t response_offset;     // from the block's start; capacity = block_bytes - response_offset
  // --- the node's answer ---
  int32_t status_code;      // absl::StatusCode
  uint32_t response_bytes;  // the response struct or message; the error text when status_code != 0
  uint32_t is_transport_error;  // 1: the status is a TransportError (proto/errors.h)
  uint32_t reserved[4];
};
static_assert(sizeof(RequestBlock) == 64);
inline constexpr uint32_t kMinResponseBytes = 512;

// Who names a tensor: a user, or Penstock itself (names in ".penstock/").
enum class Purpose : uint8_t {
  kUser = 0,
  kInternal = 1,
  kBound = 2,  // internal; deleted with its session, unless that session keeps it first (v1.CommitRequest)
};

// kPut, kReserve. Followed by int64_t shape[rank], name, metadata (MetadataEntry by MetadataEntry).
struct CreateRequest {
  uint64_t nbytes;
  uint64_t version;     // 0 = next; else must be larger than the present one
  uint64_t if_version;  // kAnyVersion = no condition; 0 = if absent
  uint64_t ttl_ns;      // 0 = none
  uint32_t data_offset;  // kPut: from the block's start
  uint16_t name_bytes;
  uint16_t metadata_bytes;
  uint8_t dtype;
  uint8_t rank;
  uint8_t flags;  // RecordFlags: only kRecordKeep and kRecordSoftPin
  Purpose purpose;
  uint16_t replicas;
  uint16_t reserved1;
};
static_assert(sizeof(CreateRequest) == 48);
inline constexpr uint64_t kAnyVersion = ~uint64_t{0};

struct CreateResponse {
  uint64_t version_number;
  uint32_t version_term;
  RecordRef record;  // the draft's or the tensor's record
  uint64_t record_seq;  // kPut, kPublish: its sequence; kReserve: the draft's, to be given back in DraftRequest
  uint64_t created_ns;
  uint32_t segment;
  uint32_t reserved;
  uint64_t offset;
  uint64_t need_extent_bytes;  // kReserve: not 0 = no space: open an extent of this size (fd socket), then ask again
  uint8_t home[16];  // kPut, kPublish: uuid of the node that has the tensor; zero: this one
};
static_assert(sizeof(CreateResponse) == 72);

struct DraftRequest {
  RecordRef record;
  uint32_t reserved;
  uint64_t record_seq;
};
static_assert(sizeof(DraftRequest) == 16);

struct LookupRequest {  // then the name
  uint64_t version;     // 0 = the present one
  uint32_t name_bytes;
  uint32_t reserved;
};
static_assert(sizeof(LookupRequest) == 16);

struct LookupResponse {
  RecordRef record;
  uint32_t version_term;
  uint64_t record_seq;
  uint64_t version_number;
};
static_assert(sizeof(LookupResponse) == 24);

struct CallRequest {  // then the serialized message
  uint32_t method;    // rpc::Method
  uint32_t message_bytes;
};
static_assert(sizeof(CallRequest) == 8);

}  // namespace penstock::layout
