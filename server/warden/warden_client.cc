#include "server/warden/warden_client.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/warden/connect_warden.h"
#include "server/warden/warden_channel.h"
#include "server/warden/warden_protocol.h"
#include "transport/segment/mapping.h"
#include "transport/segment/memfd.h"

namespace penstock::warden {
namespace {

// Of these the node hands out descriptors to clients, who only read: nobody but warden and node may
// ever map them writable, so they are sealed before anything else happens to them.
bool OnlyNodeWrites(layout::SegmentKind kind) {
  switch (kind) {
    case layout::SegmentKind::kCatalogHeader:
    case layout::SegmentKind::kCatalogChunk:
    case layout::SegmentKind::kIndex:
    case layout::SegmentKind::kArena:
    case layout::SegmentKind::kMutableBook:
    case layout::SegmentKind::kTableLog:
      return true;
    case layout::SegmentKind::kExtent:
    case layout::SegmentKind::kRing:
    case layout::SegmentKind::kPins:
    case layout::SegmentKind::kChannel:
    case layout::SegmentKind::kRegion:
      return false;
  }
  return false;
}

class SocketWardenClient final : public WardenClient {
 public:
  explicit SocketWardenClient(UniqueFd socket) : channel_(std::move(socket)) {}

  absl::StatusOr<Segment> CreateSegment(const SegmentRequest& wanted) override;
  absl::Status MarkSealed(uint32_t segment) override {
    return channel_.Call(MakeRequest(Op::kMarkSealed, segment)).status();
  }
  absl::Status DropSegment(uint32_t segment) override {
    return channel_.Call(MakeRequest(Op::kDropSegment, segment)).status();
  }
  absl::Status KeepSession(uint64_t session, const std::string& blob,
                           absl::Span<const int> fds) override;
  absl::Status AddSessionFd(uint64_t session, int fd) override {
    return channel_.Call(MakeRequest(Op::kAddSessionFd, session), {fd}).status();
  }
  absl::Status DropSession(uint64_t session) override {
    return channel_.Call(MakeRequest(Op::kDropSession, session)).status();
  }
  absl::Status RestartNode() override {
    return channel_.Call(MakeRequest(Op::kRestartNode, 0)).status();
  }

 private:
  static Request MakeRequest(Op op, uint64_t id) {
    Request request{};
    request.magic = kWardenMagic;
    request.op = op;
    request.id = id;
    return request;
  }

  WardenChannel channel_;
};

absl::StatusOr<Segment> SocketWardenClient::CreateSegment(const SegmentRequest& wanted) {
  Request request = MakeRequest(Op::kCreateSegment, 0);
  request.bytes = wanted.bytes;
  request.kind = static_cast<uint32_t>(wanted.kind);
  if (wanted.huge_pages) request.flags |= kFlagHugePages;
  if (wanted.populate) request.flags |= kFlagPopulate;
  auto answered = channel_.Call(request);
  if (!answered.ok()) return answered.status();
  if (answered->fds.size() != 1) {
    return absl::InternalError("create segment: the warden's answer has no descriptor");
  }
  Segment segment;
  segment.id = static_cast<uint32_t>(answered->reply.id);
  segment.kind = wanted.kind;
  segment.bytes = answered->reply.bytes;
  segment.page_kind = answered->reply.page_kind;
  segment.fd = std::move(answered->fds[0]);
  auto mapping = Mapping::MapWritable(segment.fd.get(), segment.bytes,
                                      static_cast<PageKind>(segment.page_kind));
  absl::Status made = mapping.status();
  if (made.ok()) madvise(mapping->data(), mapping->size(), MADV_DONTDUMP);
  if (made.ok() && OnlyNodeWrites(wanted.kind)) {
    made = SealFutureWrite(segment.fd.get());
    segment.sealed = made.ok();
  }
  if (!made.ok()) {
    DropSegment(segment.id).IgnoreError();  // the error that matters is the first one
    return made;
  }
  if (wanted.populate) {  // the warden drops a segment that it cannot populate
    const auto populated = channel_.Call(MakeRequest(Op::kPopulateSegment, segment.id));
    if (!populated.ok()) return populated.status();
  }
  segment.address = mapping->Release();
  return segment;
}

absl::Status SocketWardenClient::KeepSession(uint64_t session, const std::string& blob,
                                             absl::Span<const int> fds) {
  if (blob.size() > kMaxBlobBytes || fds.size() > kMaxKeptFds) {
    return absl::InvalidArgumentError(
        absl::StrCat("keep session ", session, ": blob of ", blob.size(), " bytes and ", fds.size(),
                     " descriptors; allowed are ", kMaxBlobBytes, " and ", kMaxKeptFds));
  }
  Request request = MakeRequest(Op::kKeepSession, session);
  std::memcpy(request.blob, blob.data(), blob.size());
  request.blob_bytes = static_cast<uint32_t>(blob.size());
  return channel_.Call(request, fds).status();
}

}  // namespace

std::unique_ptr<WardenClient> ConnectWarden(UniqueFd socket) {
  return std::make_unique<SocketWardenClient>(std::move(socket));
}

}  // namespace penstock::warden
