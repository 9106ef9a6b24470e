#include "transport/stream/server_connection.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace penstock::stream {
namespace {

constexpr uint64_t kSendBytes = uint64_t{1} << 20;     // of one send: measured best (README)
constexpr uint64_t kLongRunBytes = uint64_t{32} << 10;  // sent from where they lie
constexpr uint64_t kSmallAnswerBytes = uint64_t{16} << 10;  // joins its header and its neighbours
constexpr size_t kPackedBytes = size_t{256} << 10;

bool AllZero(const uint8_t* bytes, size_t count) {
  return std::all_of(bytes, bytes + count, [](uint8_t byte) { return byte == 0; });
}

void Pack(RunCursor* cursor, const char* block, uint64_t bytes, char* to) {
  while (bytes > 0) {
    const RunCursor::Piece piece = cursor->Next(bytes);
    std::memcpy(to, block + piece.offset, piece.length);
    to += piece.length;
    bytes -= piece.length;
  }
}

}  // namespace

ServerConnection::Next ServerConnection::Step() {
  turn_bytes_ = 0;
  awaits_growth_ = false;
  while (true) {
    if (turn_bytes_ >= kTurnBytes) return Next::kAgain;
    Progress progress = Progress::kGoOn;
    switch (state_) {
      case State::kHello: progress = TakeHello(); break;
      case State::kRequest: progress = TakeRequest(); break;
      case State::kPayloadIn: progress = ReceivePayload(); break;
      case State::kUnwantedPayload: progress = DropPayload(); break;
      case State::kAwaitGrowth: progress = AwaitGrowth(); break;
      case State::kPayloadOut: progress = SendPayload(); break;
      case State::kCopyStep: progress = CopyStep(); break;
      case State::kLastWords: progress = SayLastWords(); break;
      case State::kDraining: progress = Drain(); break;
    }
    switch (progress) {
      case Progress::kGoOn: break;
      case Progress::kNeedInput: return Next::kReadable;
      case Progress::kNeedOutput: return Next::kWritable;
      case Progress::kNeedGrowth: awaits_growth_ = true; return Next::kGrowing;
      case Progress::kClosed: return Next::kClosed;
    }
  }
}

// Until `wanted` bytes are there; answers that wait go out before anything is waited for.
ServerConnection::Progress ServerConnection::FillInput(size_t wanted) {
  while (buffered() < wanted) {
    if (const Progress flushed = Flush(false); flushed != Progress::kGoOn) return flushed;
    if (in_begin_ > 0) {
      std::memmove(in_, in_ + in_begin_, buffered());
      in_end_ -= std::exchange(in_begin_, 0);
    }
    const absl::StatusOr<size_t> received = socket_.Receive(in_ + in_end_, sizeof(in_) - in_end_);
    if (!received.ok()) {
      if (absl::IsPermissionDenied(received.status())) counters_->refused.fetch_add(1, std::memory_order_relaxed);
      return Progress::kClosed;
    }
    if (*received == 0) return (socket_.PollEvents(POLLIN) & POLLIN) != 0 ? Progress::kNeedInput : Progress::kNeedOutput;
    in_end_ += *received;
  }
  return Progress::kGoOn;
}

ServerConnection::Progress ServerConnection::Flush(bool more_follows) {
  while (out_sent_ < out_.size()) {
    const absl::StatusOr<size_t> sent = socket_.Send(out_.data() + out_sent_, out_.size() - out_sent_, more_follows);
    if (!sent.ok()) return Progress::kClosed;
    if (*sent == 0) return Progress::kNeedOutput;
    out_sent_ += *sent;
    turn_bytes_ += *sent;
  }
  out_.clear();
  out_sent_ = 0;
  return Progress::kGoOn;
}

ServerConnection::Progress ServerConnection::TakeHello() {
  StreamHello hello;
  if (const Progress filled = FillInput(sizeof(hello)); filled != Progress::kGoOn) return filled;
  std::memcpy(&hello, in_ + in_begin_, sizeof(hello));
  in_begin_ += sizeof(hello);
  if (hello.magic != kHelloMagic) {  // not ours: no answer, it could not be understood
    counters_->refused.fetch_add(1, std::memory_order_relaxed);
    return Progress::kClosed;
  }
  if (hello.version != kProtocolVersion || hello.reserved != 0 || !AllZero(hello.zero, sizeof(hello.zero))) {
    return Refuse(0, absl::FailedPreconditionError(absl::StrCat("stream protocol version ", hello.version, "; this node speaks ",
                                                                kProtocolVersion, ": update the older one")));
  }
  std::memcpy(token_.data(), hello.token, token_.size());
  if (!grants_->KnowsToken(token_)) return Refuse(0, absl::PermissionDeniedError("the session is not known here, or is over"));
  known_ = true;
  AppendAnswer(0, absl::OkStatus(), 0);
  state_ = State::kRequest;
  return Progress::kGoOn;
}

ServerConnection::Progress ServerConnection::TakeRequest() {
  StreamRequest request;
  if (buffered() < sizeof(request) && BeginStep()) return Progress::kGoOn;
  if (const Progress filled = FillInput(sizeof(request)); filled != Progress::kGoOn) return filled;
  std::memcpy(&request, in_ + in_begin_, sizeof(request));
  if (request.kind == kAwaitStep) return AwaitStep(request);
  const bool is_write = request.kind == static_cast<uint8_t>(TransferKind::kWrite);
  const bool is_read = request.kind == static_cast<uint8_t>(TransferKind::kRead);
  if ((!is_read && !is_write) || request.request_id == 0 || request.dim_count > kMaxRunDims ||
      !AllZero(request.zero, sizeof(request.zero))) {
    return Refuse(request.request_id, absl::InvalidArgumentError("request: malformed"));
  }
  const size_t dims_bytes = request.dim_count * sizeof(RunDim);
  if (const Progress filled = FillInput(sizeof(request) + dims_bytes); filled != Progress::kGoOn) return filled;
  runs_.offset = request.offset;
  runs_.run_bytes = request.run_bytes;
  runs_.dims.resize(request.dim_count);
  std::memcpy(runs_.dims.data(), in_ + in_begin_ + sizeof(request), dims_bytes);
  in_begin_ += sizeof(request) + dims_bytes;
  request_id_ = request.request_id;
  counters_->requests.fetch_add(1, std::memory_order_relaxed);
  if (absl::Status status = CheckRequest(request); !status.ok()) {
    AppendAnswer(request_id_, status, 0);
    EndRequest();
    if (is_write) {
      left_ = request.length;
      state_ = State::kUnwantedPayload;
    }
    return out_.size() < kJoinedBytes ? Progress::kGoOn : Flush(false);
  }
  cursor_.emplace(runs_, request.skip);
  skip_ = request.skip;
  left_ = length_ = request.length;
  piece_ = {};
  if (is_write) {
    state_ = State::kPayloadIn;
  } else {
    BeginRead();
  }
  return Progress::kGoOn;
}

absl::Status ServerConnection::CheckRequest(const StreamRequest& request) {
  absl::StatusOr<GrantedBlock> block = grants_->Use(token_, request.grant, static_cast<TransferKind>(request.kind));
  if (!block.ok()) return block.status();
  if (absl::Status s = runs_.CheckWithin(block->bytes); !s.ok()) return s;
  const uint64_t bytes = runs_.bytes();
  if (request.skip > bytes || request.length > bytes - request.skip) {
    return absl::InvalidArgumentError(absl::StrCat("skip ", request.skip, " and length ", request.length, ": the runs have ", bytes, " bytes"));
  }
  block_ = *std::move(block);
  return absl::OkStatus();
}

void ServerConnection::BeginRead() {
  if (block_.growing != nullptr && left_ > 0) {
    state_ = State::kAwaitGrowth;
    return;
  }
  AppendAnswer(request_id_, absl::OkStatus(), left_);
  BeginPayload();
}

// What may be sent now of a growing block. What is packed is sent when the whole block is there: only whole tensors are worth
// reading before that.
absl::StatusOr<uint64_t> ServerConnection::Ready() {
  const bool packed = runs_.run_bytes < kLongRunBytes || length_ <= kSmallAnswerBytes;
  if (!packed) return block_.growing->Ready(cursor_->offset());
  for (uint64_t at = 0; at < block_.bytes;) {
    const absl::StatusOr<uint64_t> ready = block_.growing->Ready(at);
    if (!ready.ok() || *ready == 0) return ready;
    at += *ready;
  }
  return block_.bytes;
}

// Before the answer's head: it can still say that the bytes will not come.
ServerConnection::Progress ServerConnection::AwaitGrowth() {
  const absl::StatusOr<uint64_t> ready = Ready();
  if (ready.ok() && *ready > 0) {
    AppendAnswer(request_id_, absl::OkStatus(), left_);
    BeginPayload();
    return Progress::kGoOn;
  }
  if (ready.ok()) {
    const Progress flushed = Flush(false);  // nobody waits for earlier answers because of this one
    return flushed == Progress::kGoOn ? Progress::kNeedGrowth : flushed;
  }
  AppendAnswer(request_id_, ready.status(), 0);
  EndRequest();
  return Progress::kGoOn;
}

// After the answer's head.
void ServerConnection::BeginPayload() {
  counters_->sent_bytes.fetch_add(left_, std::memory_order_relaxed);
  if (left_ > kSmallAnswerBytes || out_.size() + left_ > kJoinedBytes) {
    state_ = State::kPayloadOut;
    return;
  }
  const size_t at = out_.size();
  out_.resize(at + left_);
  Pack(&*cursor_, block_.data, left_, out_.data() + at);
  EndRequest();
}

ServerConnection::Progress ServerConnection::SendPayload() {
  if (const Progress flushed = Flush(/*more_follows=*/true); flushed != Progress::kGoOn) return flushed;
  const bool packs = runs_.run_bytes < kLongRunBytes;
  while (turn_bytes_ < kTurnBytes) {
    if (packs && packed_sent_ == packed_size_ && left_ > 0) {
      if (packed_ == nullptr) packed_.reset(new char[kPackedBytes]);
      packed_size_ = std::min<uint64_t>(left_, kPackedBytes);
      packed_sent_ = 0;
      Pack(&*cursor_, block_.data, packed_size_, packed_.get());
      left_ -= packed_size_;
    } else if (!packs && piece_.length == 0 && left_ > 0) {
      uint64_t most = std::min(left_, kSendBytes);
      if (block_.growing != nullptr) {
        const absl::StatusOr<uint64_t> ready = Ready();
        if (!ready.ok()) return Progress::kClosed;  // the head has promised them; who asks again is told
        if (*ready == 0) return Progress::kNeedGrowth;
        most = std::min(most, *ready);
      }
      piece_ = cursor_->Next(most);
      left_ -= piece_.length;
    }
    const char* from = packs ? packed_.get() + packed_sent_ : block_.data + piece_.offset;
    const uint64_t bytes = packs ? packed_size_ - packed_sent_ : piece_.length;
    if (bytes == 0) {
      EndRequest();
      return Progress::kGoOn;
    }
    const absl::StatusOr<size_t> sent = socket_.Send(from, bytes, left_ > 0 && block_.growing == nullptr);
    if (!sent.ok()) return Progress::kClosed;
    if (*sent == 0) return Progress::kNeedOutput;
    turn_bytes_ += *sent;
    if (packs) {
      packed_sent_ += *sent;
    } else {
      piece_.offset += *sent;
      piece_.length -= *sent;
    }
  }
  return Progress::kGoOn;
}

ServerConnection::Progress ServerConnection::ReceivePayload() {
  while (left_ > 0 || piece_.length > 0) {
    if (turn_bytes_ >= kTurnBytes) return Progress::kGoOn;
    if (piece_.length == 0) {
      piece_ = cursor_->Next(std::min(left_, kSendBytes));
      left_ -= piece_.length;
    }
    size_t got = std::min<uint64_t>(buffered(), piece_.length);
    if (got > 0) {
      std::memcpy(block_.data + piece_.offset, in_ + in_begin_, got);
      in_begin_ += got;
    } else {
      if (const Progress flushed = Flush(false); flushed != Progress::kGoOn) return flushed;
      const absl::StatusOr<size_t> received = socket_.Receive(block_.data + piece_.offset, piece_.length);
      if (!received.ok()) return Progress::kClosed;
      if (*received == 0) return Progress::kNeedInput;
      got = *received;
    }
    piece_.offset += got;
    piece_.length -= got;
    turn_bytes_ += got;
    counters_->received_bytes.fetch_add(got, std::memory_order_relaxed);
  }
  if (block_.wrote) block_.wrote(runs_, skip_, length_);
  AppendAnswer(request_id_, absl::OkStatus(), 0);
  EndRequest();
  return Progress::kGoOn;
}

ServerConnection::Progress ServerConnection::DropPayload() {
  while (left_ > 0) {
    if (turn_bytes_ >= kTurnBytes) return Progress::kGoOn;
    if (buffered() == 0) {
      if (const Progress filled = FillInput(1); filled != Progress::kGoOn) return filled;
    }
    const size_t dropped = std::min<uint64_t>(buffered(), left_);
    in_begin_ += dropped;
    left_ -= dropped;
    turn_bytes_ += dropped;
  }
  state_ = State::kRequest;
  return Progress::kGoOn;
}

void ServerConnection::AppendAnswer(uint64_t request_id, const absl::Status& status, uint64_t payload_bytes) {
  const std::string_view message(status.message().data(), std::min<size_t>(status.message().size(), kMaxMessageText));
  const StreamAnswer answer{request_id, static_cast<int32_t>(status.code()), static_cast<uint32_t>(message.size()), payload_bytes};
  out_.append(reinterpret_cast<const char*>(&answer), sizeof(answer));
  out_.append(message.data(), message.size());
}

ServerConnection::Progress ServerConnection::Refuse(uint64_t request_id, const absl::Status& status) {
  counters_->refused.fetch_add(1, std::memory_order_relaxed);
  AppendAnswer(request_id, status, 0);
  state_ = State::kLastWords;
  return Progress::kGoOn;
}

ServerConnection::Progress ServerConnection::SayLastWords() {
  if (const Progress flushed = Flush(false); flushed != Progress::kGoOn) return flushed;
  socket_.FinishSending();
  state_ = State::kDraining;
  return Progress::kGoOn;
}

// Closing with unread input would reset the connection, and the peer would not get to read why it was refused.
ServerConnection::Progress ServerConnection::Drain() {
  const absl::StatusOr<size_t> received = socket_.Receive(in_, sizeof(in_));
  if (!received.ok()) return Progress::kClosed;
  turn_bytes_ += *received;
  return *received == 0 ? Progress::kNeedInput : Progress::kGoOn;
}

void ServerConnection::EndRequest() {
  block_ = {};
  cursor_.reset();
  packed_size_ = packed_sent_ = 0;
  state_ = State::kRequest;
}

}  // namespace penstock::stream
