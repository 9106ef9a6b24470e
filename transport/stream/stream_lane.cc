#include "transport/stream/stream_lane.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/monotonic.h"
#include "transport/stream/client_channel.h"
#include "transport/sys_error.h"

namespace penstock {

using stream::Chunk;
using stream::ClientChannel;
using stream::DoneChunk;

namespace {

// Large chunks: two streams that take turns of 4 MiB in the destination are a tenth slower than two that fill a half each.
constexpr uint64_t kLeastChunkBytes = uint64_t{4} << 20;
constexpr uint64_t kMostChunkBytes = uint64_t{32} << 20;
constexpr uint64_t kOpenChunks = 2;  // of one connection: the next one is on its way when one is done
constexpr size_t kOpenCount = 256;
constexpr uint64_t kTwoStreamsBytes = uint64_t{8} << 20;  // from here on a further connection, and a thread for it, pays
constexpr int kMaxAttempts = 2;
constexpr absl::Duration kCancelSlice = absl::Milliseconds(50);

absl::Status Check(const Transfer& transfer) {
  if (absl::Status s = transfer.runs.CheckWithin(~uint64_t{0}); !s.ok()) return s;
  if (transfer.runs.bytes() == transfer.memory.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("memory: has ", transfer.memory.size(), " bytes, the runs ", transfer.runs.bytes()));
}

}  // namespace

// One Run: what is left to do, for the threads that share it.
class StreamLane::Work {
 public:
  Work(StreamLane* lane, absl::Span<Transfer> transfers, const RunOptions& options)
      : lane_(lane), options_(options), end_(MonotonicNow() + options.timeout) {
    uint64_t total = 0;
    for (Transfer& transfer : transfers) {
      transfer.status = Check(transfer);
      if (transfer.status.ok()) total += transfer.memory.size();
    }
    const uint64_t streams = static_cast<uint64_t>(std::max(1, lane->options_.streams));
    chunk_bytes_ = std::clamp(total / (kOpenChunks * streams), kLeastChunkBytes, kMostChunkBytes);
    for (Transfer& transfer : transfers) {
      if (!transfer.status.ok()) continue;
      uint64_t skip = 0;
      do {
        const uint64_t length = std::min(chunk_bytes_, transfer.memory.size() - skip);
        todo_.push_back({&transfer, skip, length});
        skip += length;
      } while (skip < transfer.memory.size());
    }
    streams_ = total < kTwoStreamsBytes ? 1 : std::min<size_t>(streams, todo_.size());
    std::reverse(todo_.begin(), todo_.end());  // taken from the back
  }

  // One connection is driven here, each further one by a thread for as long as this lasts: receiving is mostly copying out
  // of the kernel, and one thread cannot do that as fast as the link brings it.
  void Run() {
    std::vector<std::thread> others;
    for (size_t i = 1; i < streams_; ++i) others.emplace_back([this] { Drive(); });
    Drive();
    for (std::thread& other : others) other.join();
    for (const Chunk& chunk : std::exchange(todo_, {})) Note(chunk, absl::UnavailableError("no connection"));
  }

 private:
  // Until nothing is left to do, or this thread gives up: on its own part only, unless time is over for all.
  void Drive() {
    std::unique_ptr<ClientChannel> channel;
    std::vector<DoneChunk> done;
    while (true) {
      if (channel == nullptr) {
        if (Empty()) return;
        absl::StatusOr<std::unique_ptr<ClientChannel>> taken = lane_->Take();
        if (!taken.ok()) return FailAll(taken.status());
        channel = *std::move(taken);
      }
      Submit(channel.get());
      if (channel->idle()) return lane_->GiveBack(std::move(channel));
      absl::Status status = Await(*channel);
      const bool over = !status.ok();
      if (!over) status = channel->Step(&done);
      for (const DoneChunk& chunk : std::exchange(done, {})) Note(chunk.chunk, chunk.status);
      if (status.ok()) continue;
      // Closed before anything else: nobody writes into the caller's memory after that.
      const std::vector<Chunk> open = channel->TakeOpen();
      channel.reset();
      Lose(open, status);
      if (over) return FailAll(status);
    }
  }

  bool Empty() {
    std::lock_guard lock(mutex_);
    return todo_.empty();
  }

  void Submit(ClientChannel* channel) {
    std::lock_guard lock(mutex_);
    while (!todo_.empty()) {
      const Chunk& next = todo_.back();
      if (!next.transfer->status.ok()) {  // another part of it has failed
        todo_.pop_back();
        continue;
      }
      const size_t count = channel->open_count();
      if (count >= kOpenCount || (count > 0 && channel->open_bytes() + next.length > kOpenChunks * chunk_bytes_)) return;
      channel->Submit(next);
      todo_.pop_back();
    }
  }

  absl::Status Await(const ClientChannel& channel) {
    pollfd entry{channel.fd(), channel.wanted_events(), 0};
    while (true) {
      if (options_.cancelled && options_.cancelled()) return absl::CancelledError("cancelled by the caller");
      absl::Duration wait = end_ - MonotonicNow();
      if (wait <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError(absl::StrCat(lane_->options_.address, ": not done within ", absl::FormatDuration(options_.timeout)));
      }
      if (options_.cancelled) wait = std::min(wait, kCancelSlice);
      wait = std::min(wait, absl::Seconds(3600));
      if (channel.has_input()) return absl::OkStatus();
      const int ready = poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)))));
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return SysError(errno, "poll");
    }
  }

  void Note(const Chunk& chunk, const absl::Status& status) {
    if (status.ok()) return;
    std::lock_guard lock(mutex_);
    NoteLocked(chunk, status);
  }
  void NoteLocked(const Chunk& chunk, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (chunk.transfer->status.ok()) chunk.transfer->status = status;
  }

  // What was under way on a connection that is gone is asked for again, once.
  void Lose(const std::vector<Chunk>& open, const absl::Status& why) {
    std::lock_guard lock(mutex_);
    for (auto it = open.rbegin(); it != open.rend(); ++it) {
      Chunk chunk = *it;
      if (absl::IsUnavailable(why) && ++chunk.attempts < kMaxAttempts) {
        todo_.push_back(chunk);
      } else {
        NoteLocked(chunk, why);
      }
    }
  }

  void FailAll(const absl::Status& why) {
    std::lock_guard lock(mutex_);
    for (const Chunk& chunk : std::exchange(todo_, {})) NoteLocked(chunk, why);
  }

  StreamLane* const lane_;
  const RunOptions& options_;
  const absl::Time end_;  // MonotonicNow
  uint64_t chunk_bytes_ = 0;
  size_t streams_ = 1;

  std::mutex mutex_;  // also guards the transfers' statuses
  std::vector<Chunk> todo_ ABSL_GUARDED_BY(mutex_);  // the next one at the back
};

StreamLane::StreamLane(StreamLaneOptions options) : options_(std::move(options)), owner_pid_(getpid()) {}
StreamLane::~StreamLane() = default;

void StreamLane::Run(absl::Span<Transfer> transfers, const RunOptions& options) { Work(this, transfers, options).Run(); }

absl::StatusOr<std::unique_ptr<ClientChannel>> StreamLane::Take() {
  while (true) {
    std::unique_ptr<ClientChannel> channel;
    {
      std::lock_guard lock(mutex_);
      if (owner_pid_ != getpid()) {  // the parent's connections: closed here, they live on there
        idle_.clear();
        owner_pid_ = getpid();
      }
      if (idle_.empty()) break;
      channel = std::move(idle_.back());
      idle_.pop_back();
    }
    std::vector<DoneChunk> none;
    if (channel->Step(&none).ok()) return channel;  // not closed by the peer meanwhile
  }
  return ClientChannel::Connect(options_.address, options_.token, options_.tls);
}

void StreamLane::GiveBack(std::unique_ptr<ClientChannel> channel) {
  std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxIdle) idle_.push_back(std::move(channel));
}

}  // namespace penstock
