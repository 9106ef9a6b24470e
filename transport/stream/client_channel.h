// ClientChannel: one connection of a StreamLane and the chunks of transfers that are under way on it.
//
// Threading:  one thread at a time.
// Ownership:  owns its socket; borrows the memory of the transfers until their chunks are done, or until it goes.
// Errors:     Step: UNAVAILABLE the connection is lost; the peer's status when the hello was refused.
// Limits:     answers come in the order of the requests.
#ifndef PENSTOCK_TRANSPORT_STREAM_CLIENT_CHANNEL_H_
#define PENSTOCK_TRANSPORT_STREAM_CLIENT_CHANNEL_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "transport/lane/lane.h"
#include "transport/stream/stream_wire.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::stream {

// [skip, skip + length) of a transfer's bytes.
struct Chunk {
  Transfer* transfer = nullptr;
  uint64_t skip = 0;
  uint64_t length = 0;
  int attempts = 0;
};

struct DoneChunk {
  Chunk chunk;
  absl::Status status;
};

class ClientChannel {
 public:
  static absl::StatusOr<std::unique_ptr<ClientChannel>> Connect(const std::string& address, const LaneToken& token, bool tls);
  // Over a socket that is connected, or about to be.
  static std::unique_ptr<ClientChannel> Over(TcpSocket socket, const LaneToken& token);

  void Submit(const Chunk& chunk);
  // Moves what can be moved now; chunks that are over are added to `done`.
  absl::Status Step(std::vector<DoneChunk>* done);

  int fd() const { return socket_.fd(); }
  short wanted_events() const;  // for poll
  bool has_input() const { return socket_.has_input(); }  // poll would not tell
  bool idle() const { return open_.empty() && out_.empty(); }
  uint64_t open_bytes() const { return open_bytes_; }
  size_t open_count() const { return open_.size(); }
  // The chunks that are not over; it is of no use afterwards.
  std::vector<Chunk> TakeOpen();

 private:
  struct Open {
    uint64_t request_id;
    Chunk chunk;
  };
  struct Outgoing {  // bytes of our own, or the caller's payload
    std::string own;
    absl::Span<const char> payload;
  };

  ClientChannel() = default;
  absl::Status SendSome();
  absl::Status ReceiveSome(std::vector<DoneChunk>* done);
  absl::StatusOr<bool> TakeAnswer(std::vector<DoneChunk>* done);  // false: more input is needed
  void TookPayload(uint64_t bytes);  // of the front
  void EndFront(const absl::Status& status, std::vector<DoneChunk>* done);
  std::string& OwnTail();

  size_t buffered() const { return in_end_ - in_begin_; }

  TcpSocket socket_;
  bool connected_ = false;
  bool greeted_ = false;
  uint64_t next_request_id_ = 1;
  std::deque<Open> open_;
  uint64_t open_bytes_ = 0;
  std::deque<Outgoing> out_;
  size_t out_sent_ = 0;  // of the front
  std::vector<char> in_;
  size_t in_begin_ = 0, in_end_ = 0;
  bool in_payload_ = false;
  uint64_t payload_left_ = 0;
};

}  // namespace penstock::stream

#endif  // PENSTOCK_TRANSPORT_STREAM_CLIENT_CHANNEL_H_
