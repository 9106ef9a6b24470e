// Messages of the fd socket: one AF_UNIX SOCK_SEQPACKET message each, fixed structs, descriptors by SCM_RIGHTS.
//
// gRPC cannot carry descriptors, so each node also listens here; receiving a descriptor is what proves that a client is
// on the same host, and end-of-file is the death notice of a session. A client sends requests with a number of its
// own; the node answers with the same number, or sends notices (number 0) at any time.
//
//   client -> node                      node -> client (descriptors)
//   Hello                               Welcome (catalog header, ring, pin chunk 0, eventfd) | Refusal
//   GetSegment                          SegmentReply (the memfd) | Refusal
//   OpenExtent                          SegmentReply (the memfd, still writable) | Refusal
//   ExtentMapped                        Done once sealed and ready | Refusal
//   GrowPins                            PinChunkReply (the memfd) | Refusal
//   Fork (socket, pin chunks...)        Done with the child's session id | Refusal
//   OpenRing (child of a fork)          Welcome (same as for Hello)
//   SegmentUnmapped                     -
//   OpenMutable                         MutableReply (the memfd; for a channel's writer the bell, an eventfd) | Refusal
//   MutableMapped (a channel's writer)  Done once sealed, and to be subscribed to | Refusal
//   MutableClosed                       -
//   DeleteMutable                       Done (1: there was one) | Refusal
//   -                                   notice NewSegment (the memfd): map it ahead
//   -                                   notice DropSegment: unmap it and answer SegmentUnmapped
//
// Threading:  plain values
// Ownership:  descriptors travel beside the structs; the receiver owns what it received
// Errors:     a message of another size, type or magic ends the session
// Limits:     16 descriptors a message
#pragma once

#include <cstdint>

#include "proto/layout/catalog_layout.h"

namespace penstock::layout {

inline constexpr uint32_t kFdMagic = 0x50535446;  // "FTSP"

enum class FdType : uint16_t {
  kHello = 1, kGetSegment = 2, kOpenExtent = 3, kExtentMapped = 4, kGrowPins = 5, kFork = 6, kOpenRing = 7,
  kSegmentUnmapped = 8, kOpenMutable = 9, kMutableMapped = 10, kMutableClosed = 11, kDeleteMutable = 12,
  kWelcome = 32, kSegmentReply = 33, kPinChunkReply = 34, kDone = 35, kRefusal = 36, kMutableReply = 37,
  kNewSegment = 48, kDropSegment = 49,
};

enum class SegmentKind : uint32_t {
  kCatalogHeader = 1, kCatalogChunk = 2, kIndex = 3, kArena = 4, kExtent = 5, kRing = 6, kPins = 7,
  kMutableBook = 8, kChannel = 9, kRegion = 10, kTableLog = 11,
};

struct FdHeader {
  uint32_t magic;
  FdType type;
  uint16_t layout_version;  // kLayoutVersion: a node or client of another one says so instead of guessing
  uint64_t number;          // request number; 0 in notices
};
static_assert(sizeof(FdHeader) == 16);

enum HelloFlags : uint32_t {
  kHelloRequireRdma = 1,  // bytes of other nodes by RDMA, or not at all
};
struct HelloMessage {
  FdHeader header;
  uint32_t pid;      // as the client sees itself; for display (SO_PEERCRED is what is trusted)
  uint32_t flags;    // HelloFlags
  char label[64];    // program name for `penstock sessions`; NUL-padded
};
struct WelcomeMessage {
  FdHeader header;
  uint64_t session_id;
  uint8_t token[16];         // proves the session in gRPC calls (metadata "penstock-session")
  uint64_t node_generation;
  uint64_t header_bytes;     // of the catalog header segment
  uint64_t ring_bytes;
  char grpc_address[128];    // where the node's gRPC service listens, e.g. "unix:/run/penstock/grpc.sock"
};
struct SegmentMessage {  // GetSegment, OpenExtent (bytes), ExtentMapped, SegmentUnmapped, SegmentReply and notices
  FdHeader header;
  uint32_t segment;
  SegmentKind kind;
  uint64_t bytes;
  uint32_t page_kind;  // 0 = 4 KiB pages, 1 = transparent huge, 2 = hugetlb
  uint32_t reserved;
};
struct PinChunkMessage {  // GrowPins, PinChunkReply
  FdHeader header;
  uint32_t chunk;
  uint32_t reserved;
};
struct ForkMessage {  // descriptors: node's end of the child's socket, then the child's pin chunks (copied, size-sealed)
  FdHeader header;
  uint32_t pin_chunks;
  uint32_t reserved;
};
struct DoneMessage {
  FdHeader header;
  uint64_t value;  // Fork: the child's session id
};
struct RefusalMessage {
  FdHeader header;
  int32_t code;  // absl::StatusCode; negative: of a transport error
  uint32_t text_bytes;
  char text[1000];
};
// Memory that changes: channels (channel_layout.h) and regions (region_layout.h).
enum class MutableKind : uint32_t { kChannel = 1, kRegion = 2 };
enum MutableFlags : uint32_t {
  kMutableCreate = 1,     // a channel: as its one writer, made anew; a region: made if there is none
  kMutableExclusive = 2,  // a region: not if there is one
};
struct MutableRequest {  // OpenMutable, DeleteMutable
  FdHeader header;
  MutableKind kind;
  uint32_t flags;   // MutableFlags
  uint64_t nbytes;  // of a step, or of the region; 0 in a region that is opened: any
  uint32_t slots;   // of a channel
  uint8_t dtype;    // penstock::DType of a channel
  uint8_t rank;
  uint16_t name_bytes;
  int64_t shape[16];
  char name[512];
};
struct MutableReply {
  FdHeader header;
  MutableKind kind;
  uint32_t segment;
  uint64_t bytes;   // of the segment
  uint64_t nbytes;  // of a step, or of the region
  uint32_t slots;
  uint8_t dtype;
  uint8_t rank;
  uint16_t made;  // 1: by this request
  int64_t shape[16];
  char home[64];  // of a mirror: the address of the channel's node, as this one knows it; NUL-padded
};
enum MutableClosedFlags : uint32_t {
  kMutableStillMapped = 1,  // a channel's name is given up; another MutableClosed will follow
};
struct MutableMessage {  // MutableMapped, MutableClosed
  FdHeader header;
  uint32_t segment;
  uint32_t flags;   // MutableClosedFlags
  uint64_t opened;  // number of the OpenMutable
};
static_assert(sizeof(MutableRequest) == 680 && sizeof(MutableReply) == 240 && sizeof(MutableMessage) == 32);
static_assert(sizeof(HelloMessage) == 88 && sizeof(WelcomeMessage) == 192 && sizeof(SegmentMessage) == 40);
static_assert(sizeof(RefusalMessage) == 1024);

}  // namespace penstock::layout
