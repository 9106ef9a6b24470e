#include "transport/stream/client_channel.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace penstock::stream {
namespace {

constexpr size_t kInputBytes = size_t{64} << 10;
constexpr uint64_t kDirectBytes = uint64_t{16} << 10;  // payloads of this size are received where they belong
constexpr uint64_t kReceiveBytes = uint64_t{1} << 20;
constexpr uint64_t kTurnBytes = uint64_t{4} << 20;  // one channel's, before the next one is looked at

}  // namespace

absl::StatusOr<std::unique_ptr<ClientChannel>> ClientChannel::Connect(const std::string& address, const LaneToken& token, bool tls) {
  absl::StatusOr<TcpSocket> socket = TcpSocket::BeginConnect(address);
  if (!socket.ok()) return socket.status();
  if (tls) {
    if (absl::Status s = socket->UseTlsAsClient(token); !s.ok()) return s;
  }
  return Over(*std::move(socket), token);
}

std::unique_ptr<ClientChannel> ClientChannel::Over(TcpSocket socket, const LaneToken& token) {
  std::unique_ptr<ClientChannel> channel(new ClientChannel());
  channel->socket_ = std::move(socket);
  channel->in_.resize(kInputBytes);
  StreamHello hello{.magic = kHelloMagic, .version = kProtocolVersion, .reserved = 0, .token = {}, .zero = {}};
  std::memcpy(hello.token, token.data(), token.size());
  channel->OwnTail().append(reinterpret_cast<const char*>(&hello), sizeof(hello));
  return channel;
}

void ClientChannel::Submit(const Chunk& chunk) {
  const ByteRuns& runs = chunk.transfer->runs;
  const StreamRequest request{.request_id = next_request_id_++, .kind = static_cast<uint8_t>(chunk.transfer->kind),
                              .dim_count = static_cast<uint8_t>(runs.dims.size()), .zero = {}, .grant = chunk.transfer->grant,
                              .offset = runs.offset, .run_bytes = runs.run_bytes, .skip = chunk.skip, .length = chunk.length};
  std::string& out = OwnTail();
  out.append(reinterpret_cast<const char*>(&request), sizeof(request));
  out.append(reinterpret_cast<const char*>(runs.dims.data()), runs.dims.size() * sizeof(RunDim));
  if (chunk.transfer->kind == TransferKind::kWrite && chunk.length > 0) {
    const absl::Span<const char> payload = chunk.transfer->memory.subspan(chunk.skip, chunk.length);
    if (payload.size() < kDirectBytes) {
      out.append(payload.data(), payload.size());
    } else {
      out_.push_back({.own = {}, .payload = payload});
    }
  }
  open_.push_back({request.request_id, chunk});
  open_bytes_ += chunk.length;
}

// The text at the end of what goes out, where more may be added.
std::string& ClientChannel::OwnTail() {
  if (out_.empty() || !out_.back().payload.empty() || out_.back().own.size() >= kJoinedBytes) out_.emplace_back();
  return out_.back().own;
}

short ClientChannel::wanted_events() const {
  if (!connected_) return POLLOUT;
  return socket_.PollEvents(static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT)));
}

absl::Status ClientChannel::Step(std::vector<DoneChunk>* done) {
  if (!connected_) {
    pollfd entry{fd(), POLLOUT, 0};
    if (poll(&entry, 1, 0) <= 0) return absl::OkStatus();
    if (absl::Status s = socket_.ConnectError(); !s.ok()) return s;
    connected_ = true;
  }
  // What the peer said last is read even when it takes nothing any more: it tells why.
  const absl::Status sent = SendSome();
  const absl::Status received = ReceiveSome(done);
  return received.ok() ? sent : received;
}

absl::Status ClientChannel::SendSome() {
  uint64_t turn = 0;
  while (!out_.empty() && turn < kTurnBytes) {
    const Outgoing& front = out_.front();
    const absl::Span<const char> bytes = front.payload.empty() ? absl::Span<const char>(front.own) : front.payload;
    const absl::StatusOr<size_t> sent =
        socket_.Send(bytes.data() + out_sent_, std::min<size_t>(bytes.size() - out_sent_, kReceiveBytes), out_.size() > 1);
    if (!sent.ok()) return sent.status();
    if (*sent == 0) break;
    out_sent_ += *sent;
    turn += *sent;
    if (out_sent_ < bytes.size()) continue;
    out_.pop_front();
    out_sent_ = 0;
  }
  return absl::OkStatus();
}

absl::Status ClientChannel::ReceiveSome(std::vector<DoneChunk>* done) {
  uint64_t turn = 0;
  while (true) {
    if (in_payload_ && payload_left_ == 0) EndFront(absl::OkStatus(), done);
    char* to = nullptr;
    if (in_payload_) {
      const Chunk& chunk = open_.front().chunk;
      to = chunk.transfer->memory.data() + chunk.skip + (chunk.length - payload_left_);
      if (buffered() > 0) {
        const size_t n = std::min<uint64_t>(buffered(), payload_left_);
        std::memcpy(to, in_.data() + in_begin_, n);
        in_begin_ += n;
        TookPayload(n);
        continue;
      }
    } else {
      const absl::StatusOr<bool> taken = TakeAnswer(done);
      if (!taken.ok()) return taken.status();
      if (*taken) continue;
    }
    if (turn >= kTurnBytes) break;  // not before all that is buffered here is used: poll knows only of the socket
    const bool direct = in_payload_ && payload_left_ >= kDirectBytes;
    if (!direct && in_begin_ > 0) {
      std::memmove(in_.data(), in_.data() + in_begin_, buffered());
      in_end_ -= std::exchange(in_begin_, 0);
    }
    const absl::StatusOr<size_t> received = direct ? socket_.Receive(to, std::min(payload_left_, kReceiveBytes))
                                                   : socket_.Receive(in_.data() + in_end_, in_.size() - in_end_);
    if (!received.ok()) return received.status();
    if (*received == 0) break;
    turn += *received;
    if (direct) {
      TookPayload(*received);
    } else {
      in_end_ += *received;
    }
  }
  return absl::OkStatus();
}

void ClientChannel::TookPayload(uint64_t bytes) {
  const Chunk& chunk = open_.front().chunk;
  if (chunk.transfer->arrived) chunk.transfer->arrived(chunk.skip + (chunk.length - payload_left_), bytes);
  payload_left_ -= bytes;
}

absl::StatusOr<bool> ClientChannel::TakeAnswer(std::vector<DoneChunk>* done) {
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
  if (open_.empty() || answer.request_id != open_.front().request_id) return absl::UnavailableError("the peer answers what was not asked");
  const Chunk& chunk = open_.front().chunk;
  if (!status.ok() || chunk.transfer->kind == TransferKind::kWrite) {
    EndFront(status, done);
    return true;
  }
  if (answer.payload_bytes != chunk.length) return absl::UnavailableError("the peer answers with another length");
  in_payload_ = true;
  payload_left_ = chunk.length;
  return true;
}

void ClientChannel::EndFront(const absl::Status& status, std::vector<DoneChunk>* done) {
  done->push_back({open_.front().chunk, status});
  open_bytes_ -= open_.front().chunk.length;
  open_.pop_front();
  in_payload_ = false;
}

std::vector<Chunk> ClientChannel::TakeOpen() {
  std::vector<Chunk> chunks;
  for (const Open& open : open_) chunks.push_back(open.chunk);
  open_.clear();
  open_bytes_ = 0;
  return chunks;
}

}  // namespace penstock::stream
