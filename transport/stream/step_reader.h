// StepReader: one connection to a data port that follows channels there; the client side of FollowedSteps.
//
//   auto reader = StepReader::Connect(address, token, tls);
//   (*reader)->Await(grant, after);                       // once for each step that may come
//   poll((*reader)->fd(), (*reader)->wanted_events());
//   status = (*reader)->Step(&sink);                      // what has come goes to the sink
//
// Threading:  one thread at a time.
// Ownership:  owns its socket. Memory that the sink gave is written to until it is told End, or the reader goes.
// Errors:     Step: UNAVAILABLE the connection is lost, or the peer does not speak the protocol; PERMISSION_DENIED the session
//             is over there. Errors of one grant go to the sink.
// Limits:     no memory but 64 KiB of input and a place for each request.
#ifndef PENSTOCK_TRANSPORT_STREAM_STEP_READER_H_
#define PENSTOCK_TRANSPORT_STREAM_STEP_READER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "transport/lane/lane.h"
#include "transport/stream/stream_wire.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::stream {

class StepReader {
 public:
  class Sink {
   public:
    virtual ~Sink() = default;
    // Step `seq` of `nbytes` bytes comes. Where to; null: it is not wanted (any more). An error ends the connection.
    virtual absl::StatusOr<char*> Begin(uint64_t grant, uint64_t seq, uint64_t nbytes) = 0;
    virtual void End(uint64_t grant, uint64_t seq) = 0;  // it is there, whole; only if it was wanted
    // A request was answered by no step. OK: the channel was closed.
    virtual void Over(uint64_t grant, const absl::Status& why) = 0;
  };

  static absl::StatusOr<std::unique_ptr<StepReader>> Connect(const std::string& address, const LaneToken& token, bool tls);
  // Over a socket that is connected, or about to be.
  static std::unique_ptr<StepReader> Over(TcpSocket socket, const LaneToken& token);

  void Await(uint64_t grant, uint64_t after);
  absl::Status Step(Sink* sink);

  int fd() const { return socket_.fd(); }
  short wanted_events() const;                            // for poll
  bool has_input() const { return socket_.has_input(); }  // poll would not tell

 private:
  StepReader() = default;
  absl::Status Send();
  absl::Status Receive(Sink* sink);
  absl::StatusOr<bool> TakeAnswer(Sink* sink);  // false: more input is needed
  absl::StatusOr<bool> TakeHead(Sink* sink);
  void EndStep(Sink* sink);
  size_t buffered() const { return in_end_ - in_begin_; }

  TcpSocket socket_;
  bool connected_ = false;
  bool greeted_ = false;
  uint64_t next_request_id_ = 1;
  std::unordered_map<uint64_t, uint64_t> open_;  // grants of requests
  std::string out_;
  size_t out_sent_ = 0;
  std::vector<char> in_;
  size_t in_begin_ = 0, in_end_ = 0;

  // The answer that is being received.
  enum class Part { kAnswer, kHead, kStep } part_ = Part::kAnswer;
  uint64_t grant_ = 0;
  uint64_t seq_ = 0;
  uint64_t left_ = 0;   // bytes of it
  char* to_ = nullptr;  // null: dropped
  bool wanted_ = false;
};

}  // namespace penstock::stream

#endif  // PENSTOCK_TRANSPORT_STREAM_STEP_READER_H_
