#include "server/control/control_server.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock::server {

namespace {

constexpr uint64_t kListenerTag = 0;
constexpr uint64_t kWakeTag = 1;
constexpr uint64_t kGreetingBit = uint64_t{1} << 63;
constexpr uint64_t kSessionBit = uint64_t{1} << 62;
constexpr absl::Duration kSendTimeout = absl::Seconds(1);

layout::FdHeader Header(layout::FdType type, uint64_t number) {
  return {layout::kFdMagic, type, static_cast<uint16_t>(layout::kLayoutVersion), number};
}

template <class Message>
absl::Status Send(int socket, const Message& message, std::initializer_list<int> fds = {}, absl::Duration timeout = kSendTimeout) {
  return SendMessage(socket, absl::MakeConstSpan(reinterpret_cast<const char*>(&message), sizeof(message)),
                     absl::MakeConstSpan(fds.begin(), fds.size()), timeout);
}

template <class Message>
bool Decode(const char* bytes, size_t size, Message* message) {
  if (size != sizeof(Message)) return false;
  std::memcpy(message, bytes, sizeof(Message));
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(const Parts& parts, int listener, std::string grpc_address) {
  std::unique_ptr<ControlServer> server(new ControlServer(parts, listener, std::move(grpc_address)));
  Store* const store = parts.store;
  server->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  server->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!server->epoll_ || !server->wake_) return ErrnoStatus(errno, "control server: epoll or eventfd");
  if (absl::Status s = server->Watch(listener, kListenerTag); !s.ok()) return s;
  if (absl::Status s = server->Watch(server->wake_.get(), kWakeTag); !s.ok()) return s;
  store->OnSegmentNotice([raw = server.get()](const Store::SegmentNotice& notice) { raw->SendNotice(notice); });
  for (const std::shared_ptr<Session>& session : store->Sessions()) {
    if (absl::Status s = server->Watch(session->socket(), kSessionBit | session->id); !s.ok()) return s;
    if (session->has_ring()) parts.rings->Add(session);
  }
  server->thread_ = std::thread([raw = server.get()] { raw->Run(); });
  return server;
}

void ControlServer::Stop() {
  stopping_.store(true);
  const uint64_t one = 1;
  if (write(wake_.get(), &one, sizeof(one)) < 0) return;
  if (thread_.joinable()) thread_.join();
}

absl::Status ControlServer::Watch(int fd, uint64_t tag) {
  epoll_event event{.events = EPOLLIN | EPOLLRDHUP, .data = {.u64 = tag}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoStatus(errno, "control server: epoll_ctl");
  return absl::OkStatus();
}

void ControlServer::Run() {
  epoll_event events[64];
  while (!stopping_.load()) {
    const int count = epoll_wait(epoll_.get(), events, 64, -1);
    for (int i = 0; i < count; ++i) {
      const uint64_t tag = events[i].data.u64;
      if (tag == kListenerTag) {
        AcceptOne();
      } else if (tag & kGreetingBit) {
        Greet(tag);
      } else if (tag & kSessionBit) {
        if (std::shared_ptr<Session> session = store_->FindSession(tag & ~kSessionBit)) ServeSession(session);
      }
    }
  }
}

void ControlServer::AcceptOne() {
  absl::StatusOr<UniqueFd> socket = Accept(listener_, absl::ZeroDuration());
  if (!socket.ok()) return;  // gone again, or out of descriptors: the client will try again
  const uint64_t tag = kGreetingBit | next_greeting_++;
  if (!Watch(socket->get(), tag).ok()) return;
  greetings_[tag].socket = *std::move(socket);
}

void ControlServer::Greet(uint64_t tag) {
  auto it = greetings_.find(tag);
  if (it == greetings_.end()) return;
  UniqueFd socket = std::move(it->second.socket);
  greetings_.erase(it);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket.get(), nullptr);
  char buffer[2048];
  absl::StatusOr<ReceivedMessage> received = ReceiveMessage(socket.get(), absl::MakeSpan(buffer), absl::ZeroDuration());
  if (!received.ok() || received->end_of_file) return;
  layout::FdHeader header{};
  std::memcpy(&header, buffer, std::min(sizeof(header), received->size));
  if (header.magic != layout::kFdMagic || received->size < sizeof(header)) {
    return Refuse(socket.get(), 0, absl::InvalidArgumentError("fd socket: not a Penstock client (bad magic)"));
  }
  if (header.layout_version != layout::kLayoutVersion) {
    return Refuse(socket.get(), header.number, absl::FailedPreconditionError(StrCat(
        "the client speaks layout version ", header.layout_version, ", this node ", layout::kLayoutVersion,
        "; install the same Penstock release on both sides")));
  }
  layout::HelloMessage hello;
  if (header.type != layout::FdType::kHello || !Decode(buffer, received->size, &hello)) {
    return Refuse(socket.get(), header.number, absl::InvalidArgumentError("fd socket: the first message must be a Hello"));
  }
  SessionPeer peer;
  if (absl::StatusOr<PeerCredentials> credentials = GetPeerCredentials(socket.get()); credentials.ok()) {
    peer.pid = credentials->pid > 0 ? credentials->pid : hello.pid;
    peer.uid = credentials->uid;
  }
  std::memcpy(peer.label, hello.label, sizeof(peer.label) - 1);
  peer.require_rdma = (hello.flags & layout::kHelloRequireRdma) != 0;
  const int raw = socket.get();
  UniqueFd answer = socket.Dup();
  absl::StatusOr<std::shared_ptr<Session>> session = store_->OpenSession(peer, std::move(socket));
  absl::Status status = session.status();
  if (status.ok()) status = store_->AddRing(**session);
  if (status.ok()) status = Watch(raw, kSessionBit | (*session)->id);
  if (!status.ok()) {
    Refuse(answer.get(), hello.header.number, status);
    if (session.ok()) End((*session)->id);
    return;
  }
  rings_->Add(*session);
  Welcome(*session, hello.header.number);
}

void ControlServer::Welcome(const std::shared_ptr<Session>& session, uint64_t number) {
  layout::WelcomeMessage welcome{.header = Header(layout::FdType::kWelcome, number), .session_id = session->id, .token = {},
                                 .node_generation = store_->generation(), .header_bytes = store_->header_bytes(),
                                 .ring_bytes = layout::kRingBytes, .grpc_address = {}};
  std::memcpy(welcome.token, session->token.data(), sizeof(welcome.token));
  std::strncpy(welcome.grpc_address, grpc_address_.c_str(), sizeof(welcome.grpc_address) - 1);
  const UniqueFd catalog = store_->HeaderDescriptor();
  const absl::Status sent = Send(session->socket(), welcome,
                                 {catalog.get(), session->ring_fd(), session->pins()[0].fd.get(), session->eventfd()});
  if (!sent.ok()) End(session->id);
}

void ControlServer::Refuse(int socket, uint64_t number, const absl::Status& status) {
  layout::RefusalMessage refusal{.header = Header(layout::FdType::kRefusal, number), .code = static_cast<int32_t>(status.code()) * (IsTransportError(status) ? -1 : 1),
                                 .text_bytes = 0, .text = {}};
  refusal.text_bytes = static_cast<uint32_t>(std::min(status.message().size(), sizeof(refusal.text)));
  std::memcpy(refusal.text, status.message().data(), refusal.text_bytes);
  Send(socket, refusal).IgnoreError();  // a peer that is gone needs no answer
}

void ControlServer::End(uint64_t session) {
  if (std::shared_ptr<Session> ended = store_->FindSession(session)) {
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, ended->socket(), nullptr);
    shutdown(ended->socket(), SHUT_RDWR);
  }
  rings_->Remove(session);
  store_->EndSession(session);
  mutable_->SessionEnded(session);  // last: nothing opens for a session that has ended
}

void ControlServer::ServeSession(const std::shared_ptr<Session>& session) {
  char buffer[2048];
  absl::StatusOr<ReceivedMessage> received = ReceiveMessage(session->socket(), absl::MakeSpan(buffer), absl::ZeroDuration());
  if (!received.ok() && absl::IsDeadlineExceeded(received.status())) return;  // nothing there after all
  if (!received.ok() || received->end_of_file) return End(session->id);
  if (!Handle(session, buffer, received->size, std::move(received->fds))) {
    store_->LogEvent(v1::Event::SESSION, StrCat("session ", session->id, " (pid ", session->peer.pid, ") ended: it broke the fd socket's protocol"));
    End(session->id);
  }
}

bool ControlServer::Handle(const std::shared_ptr<Session>& session, const char* bytes, size_t size, std::vector<UniqueFd> fds) {
  layout::FdHeader header;
  if (size < sizeof(header)) return false;
  std::memcpy(&header, bytes, sizeof(header));
  if (header.magic != layout::kFdMagic || header.layout_version != layout::kLayoutVersion) return false;
  layout::SegmentMessage segment;
  layout::PinChunkMessage pins;
  layout::ForkMessage fork;
  layout::MutableRequest request;
  layout::MutableMessage opening;
  switch (header.type) {
    case layout::FdType::kGetSegment:
      if (!Decode(bytes, size, &segment)) return false;
      HandleSegment(session, segment);
      return true;
    case layout::FdType::kOpenExtent:
      if (!Decode(bytes, size, &segment)) return false;
      HandleOpenExtent(session, segment);
      return true;
    case layout::FdType::kExtentMapped:
      if (!Decode(bytes, size, &segment)) return false;
      HandleExtentMapped(session, segment);
      return true;
    case layout::FdType::kSegmentUnmapped:
      if (!Decode(bytes, size, &segment)) return false;
      store_->SegmentUnmapped(session->id, segment.segment);
      return true;
    case layout::FdType::kGrowPins:
      if (!Decode(bytes, size, &pins)) return false;
      HandleGrowPins(session, pins);
      return true;
    case layout::FdType::kFork:
      if (!Decode(bytes, size, &fork)) return false;
      HandleFork(session, fork, std::move(fds));
      return true;
    case layout::FdType::kOpenMutable:
      if (!Decode(bytes, size, &request)) return false;
      HandleOpenMutable(session, request);
      return true;
    case layout::FdType::kMutableMapped:
      if (!Decode(bytes, size, &opening)) return false;
      HandleMutableMapped(session, opening);
      return true;
    case layout::FdType::kMutableClosed:
      if (!Decode(bytes, size, &opening)) return false;
      mutable_->Closed(session->id, opening);
      return true;
    case layout::FdType::kDeleteMutable:
      if (!Decode(bytes, size, &request)) return false;
      HandleDeleteMutable(session, request);
      return true;
    case layout::FdType::kOpenRing: {
      const absl::Status status = store_->AddRing(*session);
      if (!status.ok()) {
        Refuse(session->socket(), header.number, status);
      } else {
        rings_->Add(session);
        Welcome(session, header.number);
      }
      return true;
    }
    default: return false;
  }
}

void ControlServer::HandleSegment(const std::shared_ptr<Session>& session, const layout::SegmentMessage& message) {
  SharedSegment info;
  const UniqueFd fd = store_->SegmentDescriptor(session->id, message.segment, &info);
  if (!fd) return Refuse(session->socket(), message.header.number, absl::NotFoundError(StrCat("segment ", message.segment, ": not here")));
  const layout::SegmentMessage reply{.header = Header(layout::FdType::kSegmentReply, message.header.number), .segment = info.id,
                                     .kind = info.kind, .bytes = info.bytes, .page_kind = info.page_kind, .reserved = 0};
  Send(session->socket(), reply, {fd.get()}).IgnoreError();  // a client that is gone ends by end-of-file
}

void ControlServer::HandleOpenExtent(const std::shared_ptr<Session>& session, const layout::SegmentMessage& message) {
  store_->work().Add([this, session, message] {
    absl::StatusOr<SharedSegment> made = store_->MakeExtent(session->id, message.bytes);
    if (!made.ok()) return Refuse(session->socket(), message.header.number, made.status());
    PENSTOCK_FAULT_POINT("node.extent.made");
    const UniqueFd fd = store_->UnsealedDescriptor(session->id, made->id);
    const layout::SegmentMessage reply{.header = Header(layout::FdType::kSegmentReply, message.header.number), .segment = made->id,
                                       .kind = made->kind, .bytes = made->bytes, .page_kind = made->page_kind, .reserved = 0};
    Send(session->socket(), reply, {fd.get()}).IgnoreError();
  });
}

void ControlServer::HandleExtentMapped(const std::shared_ptr<Session>& session, const layout::SegmentMessage& message) {
  store_->work().Add([this, session, message] {
    PENSTOCK_FAULT_POINT("node.extent.sealing");
    const absl::Status sealed = store_->SealExtent(session->id, message.segment);
    if (!sealed.ok()) return Refuse(session->socket(), message.header.number, sealed);
    Send(session->socket(), layout::DoneMessage{Header(layout::FdType::kDone, message.header.number), 0}).IgnoreError();
  });
}

void ControlServer::HandleGrowPins(const std::shared_ptr<Session>& session, const layout::PinChunkMessage& message) {
  PENSTOCK_FAULT_POINT("node.pins.growing");
  // Asked again after a node restart: the chunk may exist already.
  if (message.chunk >= session->pins().size()) {
    absl::StatusOr<uint32_t> grown = store_->GrowPins(*session);
    if (!grown.ok()) return Refuse(session->socket(), message.header.number, grown.status());
    if (*grown != message.chunk) {
      return Refuse(session->socket(), message.header.number, absl::InvalidArgumentError(StrCat("pin chunk ", message.chunk, ": the next one is ", *grown)));
    }
  }
  const layout::PinChunkMessage reply{Header(layout::FdType::kPinChunkReply, message.header.number), message.chunk, 0};
  Send(session->socket(), reply, {session->pins()[message.chunk].fd.get()}).IgnoreError();
}

void ControlServer::HandleOpenMutable(const std::shared_ptr<Session>& session, const layout::MutableRequest& message) {
  absl::StatusOr<MutableSpec> spec = MutableSpec::FromMessage(message);
  if (!spec.ok()) return Refuse(session->socket(), message.header.number, spec.status());
  if (!MutableMemory::IsSlow(*spec)) return OpenMutable(session, message.header.number, *spec);
  store_->work().Add([this, session, number = message.header.number, spec = *std::move(spec)] { OpenMutable(session, number, spec); });
}

void ControlServer::OpenMutable(const std::shared_ptr<Session>& session, uint64_t number, const MutableSpec& spec) {
  absl::StatusOr<MutableMemory::Opened> opened = mutable_->Open(session->id, number, spec);
  const bool elsewhere = mirrors_ != nullptr && !spec.create && spec.kind == layout::MutableKind::kChannel &&
                         (absl::IsNotFound(opened.status()) || absl::IsUnavailable(opened.status()));
  if (!elsewhere) return AnswerOpenMutable(*session, number, spec, std::move(opened));
  mirrors_->Open({.session = session->id, .opened = number, .require_rdma = session->peer.require_rdma}, spec,
                 [this, session, number, spec](absl::StatusOr<MutableMemory::Opened> mirror) { AnswerOpenMutable(*session, number, spec, std::move(mirror)); });
}

void ControlServer::AnswerOpenMutable(Session& session, uint64_t number, const MutableSpec& spec, absl::StatusOr<MutableMemory::Opened> opened) {
  if (!opened.ok()) return Refuse(session.socket(), number, opened.status());
  opened->reply.header = Header(layout::FdType::kMutableReply, number);
  PENSTOCK_FAULT_POINT("node.mutable.opened");
  if (spec.kind == layout::MutableKind::kChannel && spec.create) {
    Send(session.socket(), opened->reply, {opened->fd.get(), mutable_->bell_fd()}).IgnoreError();
  } else {
    Send(session.socket(), opened->reply, {opened->fd.get()}).IgnoreError();
  }
}

void ControlServer::HandleMutableMapped(const std::shared_ptr<Session>& session, const layout::MutableMessage& message) {
  store_->work().Add([this, session, message] {
    const absl::Status status = mutable_->Mapped(session->id, message.segment, message.opened);
    if (!status.ok()) return Refuse(session->socket(), message.header.number, status);
    Send(session->socket(), layout::DoneMessage{Header(layout::FdType::kDone, message.header.number), 0}).IgnoreError();
  });
}

void ControlServer::HandleDeleteMutable(const std::shared_ptr<Session>& session, const layout::MutableRequest& message) {
  absl::StatusOr<MutableSpec> spec = MutableSpec::FromMessage(message);
  absl::StatusOr<bool> deleted = spec.ok() ? mutable_->Delete(*spec) : spec.status();
  if (!deleted.ok()) return Refuse(session->socket(), message.header.number, deleted.status());
  Send(session->socket(), layout::DoneMessage{Header(layout::FdType::kDone, message.header.number), *deleted ? uint64_t{1} : 0}).IgnoreError();
}

void ControlServer::HandleFork(const std::shared_ptr<Session>& session, const layout::ForkMessage& message, std::vector<UniqueFd> fds) {
  if (fds.empty() || fds.size() != size_t{message.pin_chunks} + 1) {
    return Refuse(session->socket(), message.header.number,
                  absl::InvalidArgumentError(StrCat("fork: ", fds.size(), " descriptors for a socket and ", message.pin_chunks, " pin chunks")));
  }
  absl::StatusOr<std::shared_ptr<Session>> child = store_->OpenSession(session->peer, std::move(fds[0]));
  absl::Status status = child.status();
  fds.erase(fds.begin());
  if (status.ok()) status = store_->AddForkedPins(**child, std::move(fds));
  if (status.ok()) status = Watch((*child)->socket(), kSessionBit | (*child)->id);
  if (!status.ok()) {
    if (child.ok()) End((*child)->id);
    return Refuse(session->socket(), message.header.number, status);
  }
  PENSTOCK_FAULT_POINT("node.fork.taken");
  Send(session->socket(), layout::DoneMessage{Header(layout::FdType::kDone, message.header.number), (*child)->id}).IgnoreError();
}

// On the store's work thread. Notices are repeated by the store until they are answered, so a full socket is no loss.
void ControlServer::SendNotice(const Store::SegmentNotice& notice) {
  for (const std::shared_ptr<Session>& session : notice.sessions) {
    layout::SegmentMessage message{.header = Header(notice.drop ? layout::FdType::kDropSegment : layout::FdType::kNewSegment, 0),
                                   .segment = notice.segment, .kind = {}, .bytes = 0, .page_kind = 0, .reserved = 0};
    if (notice.drop) {
      Send(session->socket(), message, {}, absl::ZeroDuration()).IgnoreError();
      continue;
    }
    SharedSegment info;
    const UniqueFd fd = store_->SegmentDescriptor(session->id, notice.segment, &info);
    if (!fd) return;
    message.kind = info.kind;
    message.bytes = info.bytes;
    message.page_kind = info.page_kind;
    Send(session->socket(), message, {fd.get()}, absl::ZeroDuration()).IgnoreError();  // it can still ask for it
  }
}

}  // namespace penstock::server
