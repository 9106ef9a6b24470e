#include "client/session/mutable_mapping.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "client/session/fork.h"
#include "proto/errors.h"
#include "proto/layout/channel_layout.h"
#include "proto/layout/region_layout.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"
#include "transport/futex.h"
#include "transport/sys_error.h"

namespace penstock::client {
namespace {

using layout::FdType;
using layout::MutableKind;
using layout::MutableReply;

constexpr absl::Duration kWaitSlice = absl::Milliseconds(100);
constexpr int kAttempts = 3;

layout::MutableRequest MessageOf(const MutableMapping::Request& request) {
  layout::MutableRequest message{};
  message.kind = request.kind;
  if (request.create) message.flags |= layout::kMutableCreate;
  if (request.exclusive) message.flags |= layout::kMutableExclusive;
  message.nbytes = request.nbytes;
  message.slots = request.slots;
  message.dtype = static_cast<uint8_t>(request.dtype);
  message.rank = static_cast<uint8_t>(request.shape.rank());
  std::copy(request.shape.dims().begin(), request.shape.dims().end(), message.shape);
  message.name_bytes = static_cast<uint16_t>(request.name.size());
  memcpy(message.name, request.name.data(), request.name.size());
  return message;
}

// The node is trusted with its memory; this guards against taking one thing for another.
absl::Status CheckReply(const MutableReply& reply, MutableKind kind, int fd) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return SysError(errno, "fstat of a channel or region");
  const bool channel = kind == MutableKind::kChannel;
  const uint64_t needed = channel ? layout::ChannelBytes(reply.nbytes, reply.slots) : layout::RegionBytes(reply.nbytes);
  const int seals = fcntl(fd, F_GET_SEALS);
  if (reply.kind != kind || reply.rank > kMaxRank || (channel && reply.slots < layout::kMinSlots) ||
      reply.bytes < needed || static_cast<uint64_t>(st.st_size) < reply.bytes || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0) {
    return absl::InternalError(StrCat("the node's answer does not add up: kind ", static_cast<uint32_t>(reply.kind), ", ",
                                      reply.bytes, " bytes for ", reply.slots, " slots of ", reply.nbytes, ", a file of ",
                                      st.st_size));
  }
  return absl::OkStatus();
}

}  // namespace

MutableMapping::MutableMapping(Session* session, const MutableReply& info, uint64_t opened, Mapping mapping, UniqueFd bell)
    : session_(session),
      info_(info),
      shape_(absl::MakeConstSpan(info.shape, info.rank)),
      opened_(opened),
      fork_count_(ForkList::fork_count()),
      mapping_(std::move(mapping)),
      bell_(std::move(bell)) {
  session_->Ref();
}

MutableMapping::~MutableMapping() {
  if (not_in_children_ && !OfThisProcess()) (void)mapping_.Release();  // something else may lie there
  mapping_ = Mapping();
  TellClosed(0);
  session_->Unref();
}

void MutableMapping::TellClosed(uint32_t flags) {
  if (!OfThisProcess() || session_->ended()) return;
  layout::MutableMessage message{};
  message.segment = info_.segment;
  message.flags = flags;
  message.opened = opened_;
  (void)session_->fd_channel().Post(message, FdType::kMutableClosed);  // a store that is gone counts nothing
}

void MutableMapping::RingBell() const {
  const layout::ChannelHeader* header = layout::ChannelHeaderAt(static_cast<const void*>(mapping_.data()));
  const uint64_t one = 1;
  if (header->followed.load() != 0 && write(bell_.get(), &one, sizeof(one)) < 0) return;  // rung already
}

void MutableMapping::GiveUpName() { TellClosed(layout::kMutableStillMapped); }

bool MutableMapping::OfThisProcess() const { return fork_count_ == ForkList::fork_count(); }

absl::Status MutableMapping::CheckSession() const {
  if (!session_->ended()) return absl::OkStatus();
  return absl::UnavailableError(StrCat("the store at ", session_->address(), " has ended"));
}

absl::StatusOr<std::shared_ptr<MutableMapping>> MutableMapping::Open(Connection* connection, const Request& request,
                                                                     absl::Duration wait) {
  if (absl::Status s = ValidateUserName(request.name); !s.ok()) return s;
  const Deadline patience = Deadline::After(wait);
  for (int lost = 0;;) {
    const absl::StatusOr<Session*> session = connection->Live(connection->DefaultDeadline());
    if (!session.ok()) return session.status();
    const std::atomic<uint32_t>& turns = (*session)->catalog().header().mutable_turns;
    const uint32_t seen = turns.load();
    absl::StatusOr<std::shared_ptr<MutableMapping>> opened = OpenOnce(*session, request, connection->DefaultDeadline());
    const bool may_come = absl::IsNotFound(opened.status()) || (!request.create && absl::IsUnavailable(opened.status()) && !IsTransportError(opened.status()));
    if (opened.ok() || !may_come) return opened;
    if (request.create && ++lost == kAttempts) return absl::UnavailableError(opened.status().message());
    if (request.create) continue;  // the node was replaced in the middle
    if (patience.Passed()) return opened;
    FutexWait(&turns, seen, patience.Slice(kWaitSlice));
  }
}

absl::StatusOr<std::shared_ptr<MutableMapping>> MutableMapping::OpenOnce(Session* session, const Request& request,
                                                                         const Deadline& deadline) {
  absl::StatusOr<FdReply> reply = session->fd_channel().Call(MessageOf(request), FdType::kOpenMutable, {}, deadline);
  if (!reply.ok()) return reply.status();
  const bool writer = request.kind == MutableKind::kChannel && request.create;
  const auto message = reply->As<MutableReply>(FdType::kMutableReply, writer ? 2 : 1);
  if (!message.ok()) return message.status();
  const int fd = reply->fds[0].get();
  if (absl::Status s = CheckReply(**message, request.kind, fd); !s.ok()) return s;
  const bool reader = request.kind == MutableKind::kChannel && !request.create;
  const uint64_t bytes = (*message)->bytes;
  absl::StatusOr<Mapping> mapping = reader ? Mapping::MapReadOnly(fd, bytes) : Mapping::MapWritable(fd, bytes);
  if (!mapping.ok()) return mapping.status();
  (void)mapping->Populate(/*write=*/!reader, 0, bytes);  // what this spares later is a fault a page
  std::shared_ptr<MutableMapping> opened(
      new MutableMapping(session, **message, (*message)->header.number, *std::move(mapping), writer ? std::move(reply->fds[1]) : UniqueFd()));
  if (writer) {
    if (absl::Status s = opened->FinishWriter(deadline); !s.ok()) return s;
  }
  return opened;
}

absl::Status MutableMapping::FinishWriter(const Deadline& deadline) {
  if (absl::Status s = mapping_.DontFork(); !s.ok()) return s;
  not_in_children_ = true;
  PENSTOCK_FAULT_POINT("client.channel.mapped");
  layout::MutableMessage mapped{};
  mapped.segment = info_.segment;
  mapped.opened = opened_;
  const absl::StatusOr<FdReply> reply = session_->fd_channel().Call(mapped, FdType::kMutableMapped, {}, deadline);
  if (!reply.ok()) return reply.status();
  return reply->As<layout::DoneMessage>(FdType::kDone, 0).status();
}

absl::StatusOr<bool> MutableMapping::Delete(Connection* connection, const Request& request) {
  if (absl::Status s = ValidateUserName(request.name); !s.ok()) return s;
  const Deadline deadline = connection->DefaultDeadline();
  const absl::StatusOr<Session*> session = connection->Live(deadline);
  if (!session.ok()) return session.status();
  const absl::StatusOr<FdReply> reply =
      (*session)->fd_channel().Call(MessageOf(request), FdType::kDeleteMutable, {}, deadline);
  if (!reply.ok()) return reply.status();
  const auto done = reply->As<layout::DoneMessage>(FdType::kDone, 0);
  if (!done.ok()) return done.status();
  return (*done)->value != 0;
}

}  // namespace penstock::client
