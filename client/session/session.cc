#include "client/session/session.h"

#include <fcntl.h>
#include <time.h>

#include <utility>

#include "client/session/address.h"
#include "client/session/fork.h"
#include "client/session/remote_reads.h"
#include "proto/strcat.h"
#include "transport/sys_error.h"

namespace penstock::client {
namespace {

uint64_t CoarseNanos(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

Session::Session(std::string address, const ClientOptions& options)
    : address_(std::move(address)),
      label_(options.label.empty() ? ProgramName() : options.label),
      require_rdma_(options.require_transport == "rdma"),
      channel_({.notice = [this](FdReply notice) { segments_.OnNotice(std::move(notice)); },
                .background = [this] { return segments_.Background(); },
                .ended = [this] { OnEnded(); }}),
      segments_(&channel_),
      catalog_(&segments_),
      pins_([this](uint32_t chunk) { return GrowPins(chunk); }),
      ring_(&ended_),
      remote_reads_(std::make_unique<RemoteReads>(this)) {
  ForkList::Add(this);
}

Session::~Session() {
  ForkList::Remove(this);
  channel_.Stop();
}

void Session::OnEnded() {
  ended_.store(true, std::memory_order_release);
  pins_.End();
}

absl::Status Session::EndedError() const {
  return absl::UnavailableError(StrCat("the store at ", address_, " has ended"));
}

absl::StatusOr<Mapping> Session::GrowPins(uint32_t chunk) {
  layout::PinChunkMessage request{};
  request.chunk = chunk;
  absl::StatusOr<FdReply> reply = channel_.Call(request, layout::FdType::kGrowPins, {},
                                                Deadline::After(absl::Seconds(10)));
  if (!reply.ok()) return reply.status();
  const auto message = reply->As<layout::PinChunkMessage>(layout::FdType::kPinChunkReply, 1);
  if (!message.ok()) return message.status();
  if ((*message)->chunk != chunk) {
    return absl::InternalError(StrCat("asked for pin chunk ", chunk, ", got ", (*message)->chunk));
  }
  return Mapping::MapWritable(reply->fds[0].get(), layout::kPinChunkBytes);
}

bool Session::MayServeNow(const layout::Record* record, uint64_t serve_until) const {
  if (serve_until != UINT64_MAX && CoarseNanos(CLOCK_MONOTONIC_COARSE) >= serve_until) return false;
  return IsFresh(record);
}

bool Session::IsFresh(const layout::Record* record) const {
  const uint64_t expires = record->expires_ns.load(std::memory_order_acquire);
  if (expires >= layout::kLeaseBase) return CoarseNanos(CLOCK_MONOTONIC_COARSE) < expires - layout::kLeaseBase;
  return expires == 0 || CoarseNanos(CLOCK_REALTIME_COARSE) < expires;
}

absl::StatusOr<UniqueFd> Session::OpenLockFile() const {
  const std::string path = StrCat("/proc/self/fd/", header_fd_.get());
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) return SysError(errno, StrCat("open(", path, ") of the catalog header, for a lock"));
  return fd;
}

}  // namespace penstock::client
