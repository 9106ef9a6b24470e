#include "transport/stream/step_reader.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace penstock::stream {
namespace {

constexpr size_t kInputBytes = size_t{64} << 10;
constexpr uint64_t kDirectBytes = uint64_t{16} << 10;  // what is left of a step and no shorter is received where it belongs
constexpr uint64_t kReceiveBytes = uint64_t{1} << 20;
constexpr uint64_t kTurnBytes = uint64_t{8} << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<StepReader>> StepReader::Connect(const std::string& address, const LaneToken& token, bool tls) {
  absl::StatusOr<TcpSocket> socket = TcpSocket::BeginConnect(address);
  if (!socket.ok()) return socket.status();
  if (tls) {
    if (absl::Status s = socket->UseTlsAsClient(token); !s.ok()) return s;
  }
  return Over(*std::move(socket), token);
}

std::unique_ptr<StepReader> StepReader::Over(TcpSocket socket, const LaneToken& token) {
  std::unique_ptr<StepReader> reader(new StepReader());
  reader->socket_ = std::move(socket);
  reader->in_.resize(kInputBytes);
  StreamHello hello{.magic = kHelloMagic, .version = kProtocolVersion, .reserved = 0, .token = {}, .zero = {}};
  std::memcpy(hello.token, token.data(), token.size());
  reader->out_.assign(reinterpret_cast<const char*>(&hello), sizeof(hello));
  return reader;
}

void StepReader::Await(uint64_t grant, uint64_t after) {
  const StreamRequest request{.request_id = next_request_id_++, .kind = kAwaitStep, .dim_count = 0, .zero = {}, .grant = grant,
                              .offset = after, .run_bytes = 0, .skip = 0, .length = 0};
  out_.append(reinterpret_cast<const char*>(&request), sizeof(request));
  open_.emplace(request.request_id, grant);
}

short StepReader::wanted_events() const {
  if (!connected_) return POLLOUT;
  return socket_.PollEvents(static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT)));
}

absl::Status StepReader::Step(Sink* sink) {
  if (!connected_) {
    pollfd entry{fd(), POLLOUT, 0};
    if (poll(&entry, 1, 0) <= 0) return absl::OkStatus();
    if (absl::Status s = socket_.ConnectError(); !s.ok()) return s;
    connected_ = true;
  }
  // What the peer said last is read even when it takes nothing any more: it tells why.
  const absl::Status sent = Send();
  const absl::Status received = Receive(sink);
  if (!received.ok() || !sent.ok()) return received.ok() ? sent : received;
  return Send();  // what the sink has asked for
}

absl::Status StepReader::Send() {
  while (out_sent_ < out_.size()) {
    const absl::StatusOr<size_t> sent = socket_.Send(out_.data() + out_sent_, out_.size() - out_sent_, false);
    if (!sent.ok()) return sent.status();
    if (*sent == 0) return absl::OkStatus();
    out_sent_ += *sent;
  }
  out_.clear();
  out_sent_ = 0;
  return absl::OkStatus();
}

absl::Status StepReader::Receive(Sink* sink) {
  uint64_t turn = 0;
  while (true) {
    if (part_ == Part::kStep && left_ == 0) EndStep(sink);
    if (part_ == Part::kStep && buffered() > 0) {
      const size_t n = std::min<uint64_t>(buffered(), left_);
      if (to_ != nullptr) {
        std::memcpy(to_, in_.data() + in_begin_, n);
        to_ += n;
      }
      in_begin_ += n;
      left_ -= n;
      continue;
    }
    if (part_ != Part::kStep) {
      const absl::StatusOr<bool> taken = part_ == Part::kAnswer ? TakeAnswer(sink) : TakeHead(sink);
      if (!taken.ok()) return taken.status();
      if (*taken) continue;
    }
    if (turn >= kTurnBytes) return absl::OkStatus();  // not before all that is buffered here is used: poll knows only of the socket
    const bool direct = part_ == Part::kStep && to_ != nullptr && left_ >= kDirectBytes;
    if (!direct && in_begin_ > 0) {
      std::memmove(in_.data(), in_.data() + in_begin_, buffered());
      in_end_ -= std::exchange(in_begin_, 0);
    }
    const absl::StatusOr<size_t> received = direct ? socket_.Receive(to_, std::min(left_, kReceiveBytes))
                                                   : socket_.Receive(in_.data() + in_end_, in_.size() - in_end_);
    if (!received.ok()) return received.status();
    if (*received == 0) return absl::OkStatus();
    turn += *received;
    if (direct) {
      to_ += *received;
      left_ -= *received;
    } else {
      in_end_ += *received;
    }
  }
}

absl::StatusOr<bool> StepReader::TakeAnswer(Sink* sink) {
  StreamAnswer answer;
  if (buffered() < sizeof(answer)) return false;
  std::memcpy(&answer, in_.data() + in_begin_, sizeof(answer));
  if (answer.message_bytes > kMaxMessageText) return absl::UnavailableError("the peer's answer is malformed");
  if (buffered() < sizeof(answer) + answer.message_bytes) return false;
  const std::string message(in_.data() + in_begin_ + sizeof(answer), answer.message_bytes);
  in_begin_ += sizeof(answer) + answer.message_bytes;
  const absl::Status status(static_cast<absl::StatusCode>(answer.code), message);
  if (!greeted_) {
    if (answer.request_id != 0) return absl::UnavailableError("what listens there does not speak Penstock's protocol");
    greeted_ = true;
    if (!status.ok()) return status;
    return true;
  }
  const auto asked = open_.find(answer.request_id);
  if (asked == open_.end()) return absl::UnavailableError("the peer answers what was not asked");
  grant_ = asked->second;
  open_.erase(asked);
  if (!status.ok()) {
    sink->Over(grant_, status);
    return true;
  }
  if (answer.payload_bytes < sizeof(StepHead)) return absl::UnavailableError("the peer's step is malformed");
  left_ = answer.payload_bytes - sizeof(StepHead);
  part_ = Part::kHead;
  return true;
}

absl::StatusOr<bool> StepReader::TakeHead(Sink* sink) {
  StepHead head;
  if (buffered() < sizeof(head)) return false;
  std::memcpy(&head, in_.data() + in_begin_, sizeof(head));
  in_begin_ += sizeof(head);
  const bool closed = head.flags == kStepClosed;
  if (head.zero != 0 || (!closed && head.flags != 0) || (closed ? left_ != 0 || head.seq != 0 : head.seq == 0 || head.seq > kMaxStep)) {
    return absl::UnavailableError("the peer's step is malformed");
  }
  if (closed) {
    part_ = Part::kAnswer;
    sink->Over(grant_, absl::OkStatus());
    return true;
  }
  const absl::StatusOr<char*> to = sink->Begin(grant_, head.seq, left_);
  if (!to.ok()) return to.status();
  to_ = *to;
  wanted_ = to_ != nullptr;
  seq_ = head.seq;
  part_ = Part::kStep;
  return true;
}

void StepReader::EndStep(Sink* sink) {
  part_ = Part::kAnswer;
  to_ = nullptr;
  if (std::exchange(wanted_, false)) sink->End(grant_, seq_);
}

}  // namespace penstock::stream
