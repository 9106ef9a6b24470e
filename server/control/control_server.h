// ControlServer: the fd socket's side of the node: sessions begin and end here, and descriptors are handed out.
//
// Threading:  one thread of its own; slow requests (extents) run on the store's work queue and answer from there.
// Ownership:  shares the sessions; the listener belongs to the warden.
// Errors:     a message that breaks the protocol gets a Refusal where the client can read one, then the session ends.
// Limits:     a client that does not take its answers for 1 s loses its session.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "proto/layout/fd_messages.h"
#include "server/mutable/mutable_memory.h"
#include "server/remote/channel_mirrors.h"
#include "server/ring/ring_server.h"
#include "server/store/store.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::server {

class ControlServer {
 public:
  // What it uses must outlive it.
  struct Parts {
    Store* store = nullptr;
    RingServer* rings = nullptr;
    MutableMemory* changing = nullptr;
    ChannelMirrors* mirrors = nullptr;  // null: no other nodes
  };
  // `listener` stays open. Serves the sessions that the store has inherited, too.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(const Parts& parts, int listener, std::string grpc_address);
  ~ControlServer() { Stop(); }
  void Stop();

 private:
  struct Greeting {  // accepted, Hello not read yet
    UniqueFd socket;
  };
  ControlServer(const Parts& parts, int listener, std::string grpc_address)
      : store_(parts.store), rings_(parts.rings), mutable_(parts.changing), mirrors_(parts.mirrors), listener_(listener),
        grpc_address_(std::move(grpc_address)) {}

  void Run();
  absl::Status Watch(int fd, uint64_t tag);
  void AcceptOne();
  void Greet(uint64_t tag);
  void ServeSession(const std::shared_ptr<Session>& session);
  bool Handle(const std::shared_ptr<Session>& session, const char* bytes, size_t size, std::vector<UniqueFd> fds);
  void HandleSegment(const std::shared_ptr<Session>& session, const layout::SegmentMessage& message);
  void HandleOpenExtent(const std::shared_ptr<Session>& session, const layout::SegmentMessage& message);
  void HandleExtentMapped(const std::shared_ptr<Session>& session, const layout::SegmentMessage& message);
  void HandleGrowPins(const std::shared_ptr<Session>& session, const layout::PinChunkMessage& message);
  void HandleOpenMutable(const std::shared_ptr<Session>& session, const layout::MutableRequest& message);
  void OpenMutable(const std::shared_ptr<Session>& session, uint64_t number, const MutableSpec& spec);
  void AnswerOpenMutable(Session& session, uint64_t number, const MutableSpec& spec, absl::StatusOr<MutableMemory::Opened> opened);
  void HandleMutableMapped(const std::shared_ptr<Session>& session, const layout::MutableMessage& message);
  void HandleDeleteMutable(const std::shared_ptr<Session>& session, const layout::MutableRequest& message);
  void HandleFork(const std::shared_ptr<Session>& session, const layout::ForkMessage& message, std::vector<UniqueFd> fds);
  void Welcome(const std::shared_ptr<Session>& session, uint64_t number);
  void Refuse(int socket, uint64_t number, const absl::Status& status);
  void End(uint64_t session);
  void SendNotice(const Store::SegmentNotice& notice);

  Store* const store_;
  RingServer* const rings_;
  MutableMemory* const mutable_;
  ChannelMirrors* const mirrors_;
  const int listener_;
  const std::string grpc_address_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::atomic<bool> stopping_{false};
  std::map<uint64_t, Greeting> greetings_;
  uint64_t next_greeting_ = 1;
  std::thread thread_;
};

}  // namespace penstock::server
