#include "server/directory_link/peer_stream.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "directory.grpc.pb.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::server {

namespace pb = v1::directory;

namespace {

std::shared_ptr<grpc::Channel> ChannelOfStream(const std::string& address, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(PeerStream::kConnectPatience)));
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(absl::ToInt64Milliseconds(PeerStream::kKeepAlive)));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(absl::ToInt64Milliseconds(PeerStream::kKeepAlive)));
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

}  // namespace

// Deletes itself when it has ended. The hold lets writes begin outside of gRPC's callbacks; it goes when the read has failed,
// which is how the end of the call shows.
class PeerStream::Call final : public grpc::ClientBidiReactor<pb::DirectoryBatch, pb::TellResponse> {
 public:
  explicit Call(std::shared_ptr<PeerStream> stream)
      : stream_(std::move(stream)), stub_(pb::Directory::NewStub(ChannelOfStream(stream_->options_.address, stream_->options_.credentials))) {}

  void Begin(const pb::Hello& hello) {
    *batch_.mutable_hello() = hello;
    stub_->async()->Tell(&context_, this);
    AddHold();
    StartRead(&response_);
    StartWrite(&batch_);
    StartCall();
  }
  void TryCancel() { context_.TryCancel(); }

  pb::DirectoryBatch& batch() { return batch_; }  // while nothing is being written
  void Write() { StartWrite(&batch_); }

  void OnReadDone(bool ok) override {
    if (!ok) {
      stream_->OnBroken();
      RemoveHold();
      return;
    }
    stream_->OnAccepted(response_.session());
    StartRead(&response_);  // ends when the call does
  }
  void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<PeerStream> stream = std::move(stream_);
    std::string why = status.ok() ? "the peer ended the stream" : status.error_message();
    stream->OnGone();
    delete this;
    stream->OnEnded(std::move(why));
  }

 private:
  std::shared_ptr<PeerStream> stream_;
  const std::unique_ptr<pb::Directory::Stub> stub_;
  grpc::ClientContext context_;
  pb::DirectoryBatch batch_;
  pb::TellResponse response_;
};

void PeerStream::Send(std::string message) {
  std::lock_guard lock(mutex_);
  const size_t cost = message.size() + kPerMessage;
  if (stopped_ || cost > options_.queue_bytes) {
    options_.counters->messages_dropped.fetch_add(1);
    return;
  }
  while (queued_bytes_ + cost > options_.queue_bytes) DropFirst();
  const bool first = queue_.empty();
  queue_.push_back({std::move(message), MonotonicNow()});
  queued_bytes_ += cost;
  if (open_) {
    WriteNext();
  } else if (first) {
    options_.wake();
  }
}

void PeerStream::WriteNext() {
  if (!accepted_ || writing_ || queue_.empty()) return;
  pb::DirectoryBatch& batch = call_->batch();
  batch.Clear();
  size_t bytes = 0;
  do {
    std::string& message = queue_.front().bytes;
    bytes += message.size();
    queued_bytes_ -= message.size() + kPerMessage;
    batch.add_messages(std::move(message));
    queue_.pop_front();
  } while (!queue_.empty() && bytes + queue_.front().bytes.size() <= kBatchBytes);
  batch_bytes_ = bytes;
  writing_ = true;
  call_->Write();
}

void PeerStream::DropFirst() {
  queued_bytes_ -= queue_.front().bytes.size() + kPerMessage;
  queue_.pop_front();
  options_.counters->messages_dropped.fetch_add(1);
}

void PeerStream::DropOld(absl::Time now) {
  while (!queue_.empty() && now - queue_.front().at > kOld) DropFirst();
}

absl::Time PeerStream::ConnectIfDue(absl::Time now) {
  {
    std::lock_guard lock(mutex_);
    if (stopped_ || open_) return absl::InfiniteFuture();
    if (now < retry_at_) return queue_.empty() ? absl::InfiniteFuture() : retry_at_;
    DropOld(now);
    if (queue_.empty()) return absl::InfiniteFuture();
  }
  auto call = std::make_unique<Call>(shared_from_this());  // a channel: not something to wait for in Send
  std::lock_guard lock(mutex_);
  if (stopped_) return absl::InfiniteFuture();
  open_ = writing_ = true;  // the hello
  batch_bytes_ = 0;
  call_ = call.release();
  call_->Begin(options_.hello);
  return absl::InfiniteFuture();
}

void PeerStream::OnAccepted(uint64_t session) {
  std::lock_guard lock(mutex_);
  if (accepted_ || stopped_) return;
  accepted_ = true;
  session_ = session;
  backoff_ = kFirstRetry;
  error_.clear();
  if (++times_accepted_ > 1) options_.counters->reconnects.fetch_add(1);
  WriteNext();
}

void PeerStream::OnWritten(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  const auto messages = static_cast<uint64_t>(call_->batch().messages_size());
  if (!ok) {
    options_.counters->messages_dropped.fetch_add(messages);
    return;
  }
  options_.counters->messages_sent.fetch_add(messages);
  options_.counters->bytes_sent.fetch_add(batch_bytes_);
  WriteNext();
}

void PeerStream::OnBroken() {
  std::lock_guard lock(mutex_);
  accepted_ = false;
}

void PeerStream::OnGone() {
  std::lock_guard lock(mutex_);
  call_ = nullptr;
}

void PeerStream::OnEnded(std::string why) {
  std::lock_guard lock(mutex_);
  open_ = writing_ = false;
  error_ = std::move(why);
  retry_at_ = MonotonicNow() + backoff_;
  backoff_ = std::min(2 * backoff_, kLongestRetry);
  if (!stopped_ && !queue_.empty()) options_.wake();
  ended_.notify_all();
}

bool PeerStream::connected() const {
  std::lock_guard lock(mutex_);
  return accepted_;
}

uint64_t PeerStream::session() const {
  std::lock_guard lock(mutex_);
  return session_;
}

uint64_t PeerStream::queued_bytes() const {
  std::lock_guard lock(mutex_);
  return queued_bytes_;
}

std::string PeerStream::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

void PeerStream::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  accepted_ = false;
  while (!queue_.empty()) DropFirst();
  if (call_ != nullptr) call_->TryCancel();
}

void PeerStream::AwaitEnd() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !open_; });
}

}  // namespace penstock::server
