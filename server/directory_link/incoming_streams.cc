#include "server/directory_link/incoming_streams.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "directory.grpc.pb.h"
#include "proto/strcat.h"
#include "server/directory_link/wire.h"

namespace penstock::server {

namespace pb = v1::directory;

namespace {

constexpr int kShortestBetweenPings = 100;  // ms; PeerStream asks about every second

std::string NodeText(uint64_t id) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(id));
  return text;
}

class IncomingOnGrpc final : public IncomingStreams, private pb::Directory::CallbackService {
 public:
  explicit IncomingOnGrpc(Options options) : options_(std::move(options)) {}
  ~IncomingOnGrpc() override { Stop(); }

  void AddTo(grpc::ServerBuilder* builder) override {
    builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kShortestBetweenPings);
    builder->RegisterService(this);
  }

  void Stop() override {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    for (Stream* stream : streams_) stream->Cancel();
    gone_.wait(lock, [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return streams_.empty(); });
  }

 private:
  // Deletes itself when it has ended.
  class Stream final : public grpc::ServerBidiReactor<pb::DirectoryBatch, pb::TellResponse> {
   public:
    Stream(IncomingOnGrpc* all, grpc::CallbackServerContext* context) : all_(all), context_(context) {}
    void Begin() { StartRead(&batch_); }
    void Cancel() { context_->TryCancel(); }
    void Refuse(grpc::StatusCode code, const std::string& why) { Finish(grpc::Status(code, why)); }

    void OnReadDone(bool ok) override {
      if (!ok) return Finish(grpc::Status::OK);
      if (from_ == 0) {
        if (const std::string why = all_->Greet(this, batch_.hello()); !why.empty()) return Refuse(grpc::StatusCode::FAILED_PRECONDITION, why);
        response_.set_session(all_->options_.session);
        StartWrite(&response_);
      } else {
        all_->Deliver(from_, batch_);
      }
      StartRead(&batch_);
    }
    void OnDone() override { all_->Remove(this); }

    // Of the hello; under the lock of `all`.
    directory::NodeId from_ = 0;
    bool bulk_ = false;

   private:
    IncomingOnGrpc* const all_;
    grpc::CallbackServerContext* const context_;
    pb::DirectoryBatch batch_;
    pb::TellResponse response_;
  };

  grpc::ServerBidiReactor<pb::DirectoryBatch, pb::TellResponse>* Tell(grpc::CallbackServerContext* context) override {
    auto* const stream = new Stream(this, context);
    const std::string peer = context->peer();
    std::lock_guard lock(mutex_);
    streams_.insert(stream);
    if (stopping_) {
      stream->Refuse(grpc::StatusCode::UNAVAILABLE, "the node is stopping");
    } else if (peer.rfind("unix:", 0) == 0) {  // open to local clients, which need no certificate there
      NoteRefused(peer, "other nodes come by the TCP port");
      stream->Refuse(grpc::StatusCode::PERMISSION_DENIED, "service Directory is for other nodes, which come by the TCP port (--grpc_port)");
    } else {
      stream->Begin();
    }
    return stream;
  }

  // Why not; empty: welcome.
  std::string Greet(Stream* stream, const pb::Hello& hello) {
    std::string why = Misses(hello);
    if (!why.empty()) {
      NoteRefused(StrCat("node ", NodeText(hello.from()), ", session ", NodeText(hello.from_session())), why);
      return why;
    }
    std::lock_guard lock(mutex_);
    for (Stream* other : streams_) {
      if (other->from_ == hello.from() && other->bulk_ == hello.bulk()) other->Cancel();
    }
    stream->from_ = hello.from();
    stream->bulk_ = hello.bulk();
    return why;
  }

  std::string Misses(const pb::Hello& hello) const {
    if (hello.cluster() != options_.cluster) return StrCat("hello.cluster: this node is of cluster \"", options_.cluster, "\", not of \"", hello.cluster(), "\"");
    if (hello.to() != options_.self) return StrCat("hello.to: this is node ", NodeText(options_.self), ", not ", NodeText(hello.to()));
    if (hello.from() == 0 || hello.from() == options_.self) return "hello.from: must be another node's id";
    return {};
  }

  void NoteRefused(const std::string& who, const std::string& why) {
    options_.counters->streams_refused.fetch_add(1);
    options_.counters->NoteRefused(StrCat("stream of ", who, ": ", why));
  }

  void Deliver(directory::NodeId from, const pb::DirectoryBatch& batch) {
    std::vector<directory::Message> messages;
    messages.reserve(static_cast<size_t>(batch.messages_size()));
    uint64_t bytes = 0;
    for (const std::string& encoded : batch.messages()) {
      absl::StatusOr<directory::Message> message = directory::Decode(encoded, options_.partition_count);
      bytes += encoded.size();
      if (message.ok()) {
        messages.push_back(*std::move(message));
      } else {
        options_.counters->messages_refused.fetch_add(1);
        options_.counters->NoteRefused(StrCat("message of node ", NodeText(from), ": ", std::string(message.status().message())));
      }
    }
    options_.counters->messages_received.fetch_add(messages.size());
    options_.counters->bytes_received.fetch_add(bytes);
    if (!messages.empty()) options_.on_messages(from, std::move(messages));
  }

  void Remove(Stream* stream) {
    std::unique_lock lock(mutex_);
    streams_.erase(stream);
    delete stream;
    if (streams_.empty()) gone_.notify_all();  // with the lock: who waits for it may be the end of this object
  }

  const Options options_;
  std::mutex mutex_;
  std::condition_variable gone_;
  std::set<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<IncomingStreams> IncomingStreams::Create(Options options) { return std::make_unique<IncomingOnGrpc>(std::move(options)); }

}  // namespace penstock::server
