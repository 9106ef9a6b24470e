// ServerConnection: one connection of a StreamServer, as far as it can go without waiting.
//
// Threading:  one thread at a time.
// Ownership:  owns its socket; holds the granted block of the request that it serves.
// Errors:     none come out: a peer that breaks the protocol is answered where it can be, and closed.
// Limits:     4 KiB of input buffer; 64 KiB of small answers, 256 KiB for packing short runs.
#ifndef PENSTOCK_TRANSPORT_STREAM_SERVER_CONNECTION_H_
#define PENSTOCK_TRANSPORT_STREAM_SERVER_CONNECTION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "transport/lane/lane.h"
#include "transport/stream/followed_steps.h"
#include "transport/stream/stream_wire.h"
#include "transport/stream/tcp_socket.h"

namespace penstock::stream {

struct ServerCounters {
  std::atomic<uint64_t> refused{0};
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> sent_bytes{0};
  std::atomic<uint64_t> received_bytes{0};
};

class ServerConnection {
 public:
  static constexpr uint64_t kTurnBytes = uint64_t{1} << 20;  // then the next connection: with 4 MiB the slowest of 64 got 0.4 of the mean

  ServerConnection(TcpSocket socket, GrantTable* grants, ServerCounters* counters)
      : socket_(std::move(socket)), grants_(grants), counters_(counters) {}

  enum class Next {
    kReadable,  // call again when the socket can be read
    kWritable,
    kAgain,     // its turn is over, there is more to do
    kGrowing,   // when bytes that it is to send have come (IsDue); there is nothing to do for the socket
    kClosed,
  };
  Next Step();

  int fd() const { return socket_.fd(); }
  // Whether it has said hello with a token that is known.
  bool known() const { return known_; }
  // Whether it is to be closed soon: it has not said hello, or has been refused and shall read why.
  bool on_probation() const { return !known_ || state_ == State::kLastWords || state_ == State::kDraining; }
  const LaneToken& token() const { return token_; }
  // Whether it waits for steps of channels, or for bytes of a growing block; Step is to be called when they are there, too.
  bool follows() const { return !steps_.empty() || awaits_growth_; }
  // After each ring of the bell, and now and then: whether it was for this connection.
  bool IsDue();

 private:
  enum class State { kHello, kRequest, kPayloadIn, kUnwantedPayload, kAwaitGrowth, kPayloadOut, kCopyStep, kLastWords, kDraining };
  enum class Progress { kGoOn, kNeedInput, kNeedOutput, kNeedGrowth, kClosed };

  Progress TakeHello();
  Progress TakeRequest();
  Progress ReceivePayload();
  Progress DropPayload();
  Progress AwaitGrowth();
  absl::StatusOr<uint64_t> Ready();
  Progress SendPayload();
  Progress AwaitStep(const StreamRequest& request);  // server_steps.cc, and the next two
  bool BeginStep();
  Progress CopyStep();
  Progress SayLastWords();
  Progress Drain();
  Progress Flush(bool more_follows);
  Progress FillInput(size_t wanted);
  absl::Status CheckRequest(const StreamRequest& request);
  void AppendAnswer(uint64_t request_id, const absl::Status& status, uint64_t payload_bytes);
  Progress Refuse(uint64_t request_id, const absl::Status& status);  // and close
  void BeginRead();
  void BeginPayload();
  void EndRequest();

  size_t buffered() const { return in_end_ - in_begin_; }

  TcpSocket socket_;
  GrantTable* const grants_;
  ServerCounters* const counters_;
  LaneToken token_{};
  bool known_ = false;
  State state_ = State::kHello;
  uint64_t turn_bytes_ = 0;  // moved in this Step

  char in_[4096];
  size_t in_begin_ = 0, in_end_ = 0;
  std::string out_;  // answers that wait to be sent
  size_t out_sent_ = 0;

  // The request that is served.
  uint64_t request_id_ = 0;
  ByteRuns runs_;
  GrantedBlock block_;
  std::optional<RunCursor> cursor_;
  uint64_t skip_ = 0;      // of the request's runs
  uint64_t length_ = 0;
  uint64_t left_ = 0;      // payload bytes that the cursor has yet to give
  RunCursor::Piece piece_;  // being moved
  bool awaits_growth_ = false;  // bytes that are to go out next are not there
  std::unique_ptr<char[]> packed_;
  size_t packed_size_ = 0, packed_sent_ = 0;

  FollowedSteps steps_;
  FollowedSteps::Due step_;  // being copied
  uint64_t copied_ = 0;
};

}  // namespace penstock::stream

#endif  // PENSTOCK_TRANSPORT_STREAM_SERVER_CONNECTION_H_
