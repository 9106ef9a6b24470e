// RawClient: a client made by hand, to say to a node what the library never would.
#pragma once

#include <sys/eventfd.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "proto/layout/fd_messages.h"
#include "proto/layout/ring_layout.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/segment/mapping.h"

namespace penstock::server {

class RawClient {
 public:
  explicit RawClient(const std::string& path) : socket_(Connect(path).value()) {}

  template <class Message>
  void Send(const Message& message, std::vector<int> fds = {}) {
    SendBytes(&message, sizeof(message), std::move(fds));
  }
  void SendBytes(const void* bytes, size_t size, std::vector<int> fds = {}) {
    SendMessage(socket_.get(), absl::MakeConstSpan(static_cast<const char*>(bytes), size), fds, absl::Seconds(5)).IgnoreError();
  }
  // The next message; empty = end of file.
  std::string Receive(std::vector<UniqueFd>* fds = nullptr) {
    char buffer[4096];
    absl::StatusOr<ReceivedMessage> received = ReceiveMessage(socket_.get(), absl::MakeSpan(buffer), absl::Seconds(10));
    if (!received.ok() || received->end_of_file) return "";
    if (fds != nullptr) *fds = std::move(received->fds);
    return std::string(buffer, received->size);
  }
  static layout::FdHeader Header(layout::FdType type, uint64_t number = 1) {
    return {layout::kFdMagic, type, static_cast<uint16_t>(layout::kLayoutVersion), number};
  }
  static layout::FdType TypeOf(const std::string& message) {
    layout::FdHeader header{};
    if (message.size() >= sizeof(header)) std::memcpy(&header, message.data(), sizeof(header));
    return header.type;
  }

  // Hello, and the ring mapped.
  bool Open() {
    layout::HelloMessage hello{.header = Header(layout::FdType::kHello)};
    Send(hello);
    std::vector<UniqueFd> fds;
    const std::string reply = Receive(&fds);
    if (TypeOf(reply) != layout::FdType::kWelcome || fds.size() != 4) return false;
    std::memcpy(&welcome, reply.data(), sizeof(welcome));
    ring_memory_ = Mapping::MapWritable(fds[1].get(), layout::kRingBytes).value();
    pins_ = Mapping::MapWritable(fds[2].get(), layout::kPinChunkBytes).value();
    eventfd_ = std::move(fds[3]);
    return true;
  }

  layout::RingHeader* ring() { return reinterpret_cast<layout::RingHeader*>(ring_memory_.data()); }
  std::atomic<uint64_t>* pins() { return reinterpret_cast<std::atomic<uint64_t>*>(pins_.data()); }
  layout::RequestBlock* block(uint32_t unit = kFirstUnit) {
    return reinterpret_cast<layout::RequestBlock*>(ring_memory_.data() + uint64_t{unit} * layout::kBlockUnit);
  }
  static constexpr uint32_t kFirstUnit = layout::kRingStagingOffset / layout::kBlockUnit;

  // A well-formed block with `body`, 4 KiB response room.
  layout::RequestBlock* Fill(layout::RingOp op, const std::string& body, uint32_t extra = 0) {
    layout::RequestBlock* b = block();
    const uint32_t response = static_cast<uint32_t>((sizeof(*b) + body.size() + extra + 7) / 8 * 8);
    b->op = static_cast<uint32_t>(op);
    b->request_id = ++request_id_;
    b->request_bytes = static_cast<uint32_t>(body.size());
    b->response_offset = response;
    b->block_bytes = response + 4096;
    std::memcpy(reinterpret_cast<char*>(b) + sizeof(*b), body.data(), body.size());
    b->state.store(static_cast<uint32_t>(layout::BlockState::kPending));
    return b;
  }
  void Submit(uint32_t unit = kFirstUnit) {
    const uint32_t tail = ring()->tail.load();
    ring()->queue[tail % layout::kQueueEntries] = unit;
    ring()->tail.store(tail + 1);
    Wake();
  }
  void Wake() {
    const uint64_t one = 1;
    if (write(eventfd_.get(), &one, sizeof(one)) < 0) return;
  }
  // The status code of the answer; -1 when none came within 10 s.
  int Await(layout::RequestBlock* b) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (b->state.load() != static_cast<uint32_t>(layout::BlockState::kDone)) {
      if (absl::Now() > deadline) return -1;
      absl::SleepFor(absl::Microseconds(100));
    }
    return b->status_code;
  }
  std::string Text(const layout::RequestBlock* b) {
    return std::string(reinterpret_cast<const char*>(b) + b->response_offset, b->response_bytes);
  }

  layout::WelcomeMessage welcome{};

 private:
  UniqueFd socket_;
  Mapping ring_memory_;
  Mapping pins_;
  UniqueFd eventfd_;
  uint64_t request_id_ = 0;
};

}  // namespace penstock::server
