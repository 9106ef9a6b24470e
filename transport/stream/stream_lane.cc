#include "transport/stream/stream_lane.h"

#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/stream/client_channel.h"
#include "transport/sys_error.h"

namespace penstock {

using stream::Chunk;
using stream::ClientChannel;
using stream::DoneChunk;

namespace {

constexpr uint64_t kChunkBytes = uint64_t{4} << 20;
constexpr uint64_t kOpenBytes = uint64_t{8} << 20;  // of one connection: enough to keep the link full
constexpr size_t kOpenCount = 256;
constexpr uint64_t kOneStreamBytes = uint64_t{1} << 20;  // up to here a second connection does not pay
constexpr int kMaxAttempts = 2;
constexpr absl::Duration kCancelSlice = absl::Milliseconds(50);

absl::Duration Monotonic() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

absl::Status Check(const Transfer& transfer) {
  if (absl::Status s = transfer.runs.CheckWithin(~uint64_t{0}); !s.ok()) return s;
  if (transfer.runs.bytes() == transfer.memory.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("memory: has ", transfer.memory.size(), " bytes, the runs ", transfer.runs.bytes()));
}

}  // namespace

// One Run: what is left to do, and on which connections it is under way.
class StreamLane::Work {
 public:
  Work(StreamLane* lane, absl::Span<Transfer> transfers, const RunOptions& options)
      : lane_(lane), options_(options), end_(Monotonic() + options.timeout) {
    uint64_t total = 0;
    for (Transfer& transfer : transfers) {
      transfer.status = Check(transfer);
      if (!transfer.status.ok()) continue;
      total += transfer.memory.size();
      uint64_t skip = 0;
      do {
        const uint64_t length = std::min(kChunkBytes, transfer.memory.size() - skip);
        todo_.push_back({&transfer, skip, length});
        skip += length;
      } while (skip < transfer.memory.size());
    }
    streams_ = total <= kOneStreamBytes ? 1 : std::min<size_t>(static_cast<size_t>(std::max(1, lane->options_.streams)), todo_.size());
    std::reverse(todo_.begin(), todo_.end());  // taken from the back
  }

  void Run() {
    while (true) {
      Submit();
      if (channels_.empty()) return;
      const absl::Status status = Await();
      if (!status.ok()) return GiveUp(status);
      for (size_t i = 0; i < channels_.size();) {
        const absl::Status moved = channels_[i]->Step(&done_);
        for (const DoneChunk& done : std::exchange(done_, {})) Note(done);
        if (!moved.ok()) {
          Lose(i, moved);
        } else if (todo_.empty() && channels_[i]->idle()) {
          lane_->GiveBack(std::move(channels_[i]));
          channels_.erase(channels_.begin() + static_cast<ptrdiff_t>(i));
        } else {
          ++i;
        }
      }
    }
  }

 private:
  void Submit() {
    while (!todo_.empty() && channels_.size() < streams_) {
      absl::StatusOr<std::unique_ptr<ClientChannel>> channel = lane_->Take();
      if (!channel.ok()) {
        if (channels_.empty()) GiveUp(channel.status());
        return;
      }
      channels_.push_back(*std::move(channel));
    }
    while (!todo_.empty()) {
      if (!todo_.back().transfer->status.ok()) {  // another part of it has failed
        todo_.pop_back();
        continue;
      }
      const auto least = std::min_element(channels_.begin(), channels_.end(),
                                          [](const auto& a, const auto& b) { return a->open_bytes() < b->open_bytes(); });
      if ((*least)->open_count() >= kOpenCount || ((*least)->open_count() > 0 && (*least)->open_bytes() + todo_.back().length > kOpenBytes)) return;
      (*least)->Submit(todo_.back());
      todo_.pop_back();
    }
  }

  absl::Status Await() {
    std::vector<pollfd> entries;
    for (const auto& channel : channels_) entries.push_back({channel->fd(), channel->wanted_events(), 0});
    while (true) {
      if (options_.cancelled && options_.cancelled()) return absl::CancelledError("cancelled by the caller");
      absl::Duration wait = end_ - Monotonic();
      if (wait <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError(absl::StrCat(lane_->options_.address, ": not done within ", absl::FormatDuration(options_.timeout)));
      }
      if (options_.cancelled) wait = std::min(wait, kCancelSlice);
      wait = std::min(wait, absl::Seconds(3600));
      const int ready = poll(entries.data(), entries.size(), static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)))));
      if (ready > 0) return absl::OkStatus();
      if (ready < 0 && errno != EINTR) return SysError(errno, "poll");
    }
  }

  void Note(const DoneChunk& done) {
    if (!done.status.ok() && done.chunk.transfer->status.ok()) done.chunk.transfer->status = done.status;
  }

  // The connection is gone; what was under way on it is asked for again, once.
  void Lose(size_t i, const absl::Status& why) {
    std::vector<Chunk> open = channels_[i]->TakeOpen();
    channels_.erase(channels_.begin() + static_cast<ptrdiff_t>(i));
    const bool again = absl::IsUnavailable(why);
    for (auto it = open.rbegin(); it != open.rend(); ++it) {
      if (again && ++it->attempts < kMaxAttempts) {
        todo_.push_back(*it);
      } else {
        Note({*it, why});
      }
    }
  }

  // Closing comes before returning: nobody writes into the caller's memory after that.
  void GiveUp(const absl::Status& why) {
    for (const auto& channel : channels_) {
      for (const Chunk& chunk : channel->TakeOpen()) Note({chunk, why});
    }
    channels_.clear();
    for (const Chunk& chunk : std::exchange(todo_, {})) Note({chunk, why});
  }

  StreamLane* const lane_;
  const RunOptions& options_;
  const absl::Duration end_;  // on CLOCK_MONOTONIC
  size_t streams_ = 1;
  std::vector<Chunk> todo_;  // the next one at the back
  std::vector<std::unique_ptr<ClientChannel>> channels_;
  std::vector<DoneChunk> done_;
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
  return ClientChannel::Connect(options_.address, options_.token);
}

void StreamLane::GiveBack(std::unique_ptr<ClientChannel> channel) {
  std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxIdle) idle_.push_back(std::move(channel));
}

}  // namespace penstock
