// Messages between a node and its warden: one SOCK_SEQPACKET message each, fixed structs,
// descriptors by SCM_RIGHTS.
//
//   node -> warden                             warden -> node
//   kCreateSegment (kind, bytes, flags)        Reply (id, bytes, page kind; the memfd)
//   kPopulateSegment (id)                      Reply, when a sacrificial child has ended
//   kMarkSealed (id)                           Reply
//   kDropSegment (id)                          Reply
//   kKeepSession (id, blob; descriptors)       Reply after the last part
//   kAddSessionFd (id; one descriptor)         Reply
//   kDropSession (id)                          Reply
//   kRestartNode                               Reply, when the library on disk is known to be fit
//
// A segment that was created with kFlagPopulate and whose kPopulateSegment has not succeeded when
// the node dies is dropped: nobody inherits half a segment. A session with more descriptors than a
// message takes comes in parts (kFlagMore on all but the last) that nothing else comes between; it
// is replaced when the last one is there.
//
// Threading:  n/a
// Ownership:  a received descriptor belongs to the receiver
// Errors:     Reply.code is an absl::StatusCode. A message of another size or magic ends the node:
//             both sides are forks of one program, so it is a broken invariant
// Limits:     kMaxBlobBytes of blob, kMaxKeptFds at once, kMaxSessionFds in all
#ifndef PENSTOCK_SERVER_WARDEN_WARDEN_PROTOCOL_H_
#define PENSTOCK_SERVER_WARDEN_WARDEN_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

namespace penstock::warden {

inline constexpr uint32_t kWardenMagic = 0x4e445257;  // "WRDN"
inline constexpr size_t kMaxBlobBytes = 512;
inline constexpr size_t kMaxKeptFds = 32;
inline constexpr size_t kMaxSessionFds = 256;

enum class Op : uint32_t {
  kCreateSegment = 1,
  kPopulateSegment = 2,
  kMarkSealed = 3,
  kDropSegment = 4,
  kKeepSession = 5,
  kAddSessionFd = 6,
  kDropSession = 7,
  kRestartNode = 8,
};

enum RequestFlags : uint32_t {
  kFlagHugePages = 1,
  kFlagPopulate = 2,
  kFlagMore = 4,
};

struct Request {
  uint32_t magic;
  Op op;
  uint64_t number;  // comes back in the reply
  uint64_t id;      // segment or session
  uint64_t bytes;   // kCreateSegment
  uint32_t kind;    // kCreateSegment: layout::SegmentKind
  uint32_t flags;   // RequestFlags
  uint32_t blob_bytes;
  uint32_t reserved;
  char blob[kMaxBlobBytes];
};
static_assert(sizeof(Request) == 48 + kMaxBlobBytes);

struct Reply {
  uint32_t magic;
  int32_t code;  // absl::StatusCode
  uint64_t number;
  uint64_t id;
  uint64_t bytes;      // of the whole segment
  uint32_t page_kind;  // penstock::PageKind
  uint32_t text_bytes;
  char text[472];  // of an error
};
static_assert(sizeof(Reply) == 512);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_WARDEN_PROTOCOL_H_
