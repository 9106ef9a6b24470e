#include "transport/ucx/ucx_tcp_lane.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/monotonic.h"
#include "transport/ucx/ucp_endpoint.h"
#include "transport/ucx/ucx_tcp_wire.h"

namespace penstock {

using ucx::MessageAnswer;
using ucx::MessageHello;
using ucx::MessageRequest;
using ucx::UcpContext;
using ucx::UcpEndpoint;
using ucx::UcpRequest;
using ucx::UcpWorker;

namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(1);
constexpr absl::Duration kSpin = absl::Microseconds(20);
constexpr absl::Duration kAskEvery = absl::Milliseconds(20);  // `cancelled`, which may want a lock of the caller's

absl::Status Check(const Transfer& transfer) {
  if (absl::Status s = transfer.runs.CheckWithin(~uint64_t{0}); !s.ok()) return s;
  if (transfer.runs.dims.size() > kMaxRunDims) return absl::InvalidArgumentError(absl::StrCat("runs: have ", transfer.runs.dims.size(), " dimensions"));
  if (transfer.runs.bytes() == transfer.memory.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("memory: has ", transfer.memory.size(), " bytes, the runs ", transfer.runs.bytes()));
}

}  // namespace

// The worker, its connection, and who waits for which answer.
class UcxTcpLane::Channel {
 public:
  // A chunk that was asked for. What it points to is touched within Progress only, hence under the mutex.
  struct Chunk {
    Transfer* transfer;
    uint64_t skip;
    uint64_t length;
    size_t* open;  // of its Run: how many are
  };

  explicit Channel(std::shared_ptr<UcpContext> context) : context_(std::move(context)) {}
  ~Channel() { BreakOff(); }

  std::mutex& mutex() { return mutex_; }
  // From Enter to Leave, once connected.
  UcpWorker& worker() { return *worker_; }

  // --- all of these with the mutex ---

  // There is a connection; its number, which changes with every new one.
  absl::StatusOr<uint64_t> Connect(const UcxTcpLaneOptions& options) {
    if (endpoint_ != nullptr && !endpoint_->failed()) return reader_;
    Drop();
    const absl::StatusOr<std::string> peer = options.peer();
    if (!peer.ok()) return peer.status();
    if (absl::Status s = Open(); !s.ok()) return s;
    const absl::StatusOr<std::string> own = worker_->Address();
    if (!own.ok()) return own.status();
    absl::StatusOr<std::unique_ptr<UcpEndpoint>> endpoint = UcpEndpoint::Connect(worker_.get(), *peer);
    if (!endpoint.ok()) return endpoint.status();
    endpoint_ = *std::move(endpoint);
    reader_ = std::uniform_int_distribution<uint64_t>()(random_);
    const MessageHello hello{.reader = reader_};
    Send(ucx::kHello, {reinterpret_cast<const char*>(&hello), sizeof(hello)}, *own);
    return reader_;
  }

  void Ask(const Chunk& chunk, const LaneToken& token) {
    const Transfer& transfer = *chunk.transfer;
    MessageRequest request{};
    request.reader = reader_;
    request.request_id = ++last_id_;
    request.token = token;
    request.grant = transfer.grant;
    request.offset = transfer.runs.offset;
    request.run_bytes = transfer.runs.run_bytes;
    request.skip = chunk.skip;
    request.length = chunk.length;
    request.kind = static_cast<uint32_t>(transfer.kind);
    request.dim_count = static_cast<uint32_t>(transfer.runs.dims.size());
    std::copy(transfer.runs.dims.begin(), transfer.runs.dims.end(), request.dims);
    std::string payload;
    if (transfer.kind == TransferKind::kWrite) payload.assign(transfer.memory.data() + chunk.skip, chunk.length);
    waiting_.emplace(request.request_id, chunk);
    ++*chunk.open;
    Send(ucx::kRequest, {reinterpret_cast<const char*>(&request), offsetof(MessageRequest, dims) + request.dim_count * sizeof(RunDim)}, std::move(payload));
  }

  // Whether there is a connection already.
  bool Enter() {
    ++runs_;
    return endpoint_ != nullptr;
  }
  // Answers that still come for this Run are nobody's.
  void Forget(const size_t* open) {
    unwanted_ += std::erase_if(waiting_, [open](const auto& entry) { return entry.second.open == open; });
  }
  // If there is no other Run that would take such answers off the wire, all is broken off: else their blocks would be held there.
  void Leave(const size_t* open) {
    Forget(open);
    if (--runs_ == 0 && unwanted_ > 0) BreakOff();
  }

  bool Progress() {
    if (worker_ == nullptr) return false;
    const bool busy = worker_->Progress();
    Reap();
    if (endpoint_ != nullptr && endpoint_->failed()) FailAll();
    return busy;
  }

 private:
  struct Sending {
    std::string header;
    std::string payload;
    UcpRequest request;
  };

  void Send(unsigned id, absl::Span<const char> header, std::string payload) {
    Sending& sending = sending_.emplace_back();
    sending.header.assign(header.data(), header.size());
    sending.payload = std::move(payload);
    sending.request = endpoint_->SendMessage(id, sending.header, sending.payload);
  }
  void Reap() {
    std::erase_if(sending_, [](const Sending& one) { return one.request.Check() != UCS_INPROGRESS; });
  }
  absl::Status Open() {
    if (worker_ != nullptr) return absl::OkStatus();
    absl::StatusOr<std::unique_ptr<UcpWorker>> worker = UcpWorker::Create(context_);
    if (!worker.ok()) return worker.status();
    if (absl::Status s = (*worker)->OnActiveMessage(ucx::kAnswer, &Channel::OnAnswer, this); !s.ok()) return s;
    worker_ = *std::move(worker);
    return absl::OkStatus();
  }
  // An endpoint that is closed leaves the sockets of its worker open, in which answers may wait.
  void BreakOff() {
    Drop();
    while (!sending_.empty()) {
      worker_->Progress();
      Reap();
    }
    worker_.reset();
  }
  void Drop() {
    FailAll();
    endpoint_.reset();
    unwanted_ = 0;
  }
  void FailAll() {
    for (const auto& [id, chunk] : std::exchange(waiting_, {})) {
      chunk.transfer->status = absl::UnavailableError("ucx-tcp: the peer is gone");
      --*chunk.open;
    }
  }

  static ucs_status_t OnAnswer(void* self, const void* header, size_t header_bytes, void* data, size_t bytes, const ucp_am_recv_param_t* param) {
    MessageAnswer answer;
    if (header_bytes != sizeof(answer) || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
    std::memcpy(&answer, header, sizeof(answer));
    static_cast<Channel*>(self)->Take(answer, {static_cast<const char*>(data), bytes});
    return UCS_OK;
  }

  void Take(const MessageAnswer& answer, absl::Span<const char> payload) {
    const auto it = waiting_.find(answer.request_id);
    if (it == waiting_.end()) {
      unwanted_ -= unwanted_ > 0 ? 1 : 0;
      return;
    }
    const Chunk chunk = it->second;
    waiting_.erase(it);
    --*chunk.open;
    Transfer& transfer = *chunk.transfer;
    if (answer.code != 0) {
      transfer.status = absl::Status(static_cast<absl::StatusCode>(answer.code), absl::string_view(payload.data(), payload.size()));
    } else if (payload.size() != (transfer.kind == TransferKind::kRead ? chunk.length : 0)) {
      transfer.status = absl::UnavailableError("ucx-tcp: a malformed answer");
    } else if (!payload.empty()) {
      std::memcpy(transfer.memory.data() + chunk.skip, payload.data(), payload.size());
    }
  }

  const std::shared_ptr<UcpContext> context_;
  std::mutex mutex_;
  std::unique_ptr<UcpWorker> worker_;
  std::unique_ptr<UcpEndpoint> endpoint_;
  std::random_device random_;
  uint64_t reader_ = 0;
  uint64_t last_id_ = 0;
  std::map<uint64_t, Chunk> waiting_;
  size_t runs_ = 0;      // that are under way
  size_t unwanted_ = 0;  // answers that will come for Runs that are over
  std::list<Sending> sending_;
};

// One Run.
class UcxTcpLane::Work {
 public:
  Work(UcxTcpLane* lane, absl::Span<Transfer> transfers, const RunOptions& options)
      : lane_(lane), options_(options), end_(MonotonicNow() + options.timeout) {
    for (Transfer& transfer : transfers) {
      transfer.status = Check(transfer);
      if (transfer.status.ok()) todo_.push_back({&transfer, 0});
    }
  }

  void Run() {
    if (todo_.empty()) return;
    Channel& channel = *lane_->channel_;
    bool connected = false;
    {
      std::lock_guard lock(channel.mutex());
      connected = channel.Enter();
    }
    absl::Status stopped = MoveAll(channel);
    // A connection from before may have been lost long ago.
    if (connected && AgainWhatIsUnavailable(channel, stopped)) stopped = MoveAll(channel);
    std::lock_guard lock(channel.mutex());
    channel.Leave(&open_);
    if (stopped.ok()) return;
    for (const Item& item : todo_) item.transfer->status.Update(stopped);
  }

 private:
  struct Item {
    Transfer* transfer;
    uint64_t asked;  // bytes
  };

  bool AgainWhatIsUnavailable(Channel& channel, const absl::Status& stopped) {
    std::lock_guard lock(channel.mutex());
    channel.Forget(&open_);
    open_ = 0;
    next_ = 0;
    connection_.reset();
    std::erase_if(todo_, [&](Item& item) {
      item.transfer->status.Update(stopped);
      if (!absl::IsUnavailable(item.transfer->status)) return true;
      item.transfer->status = absl::OkStatus();
      item.asked = 0;
      return false;
    });
    return !todo_.empty();
  }

  // OK: every transfer has its result.
  absl::Status MoveAll(Channel& channel) {
    absl::Time quiet_since = MonotonicNow();
    while (true) {
      bool armed = false, busy = false;
      {
        std::lock_guard lock(channel.mutex());
        busy = channel.Progress();
        const absl::Status stop = Interrupted();
        const absl::Status asked = stop.ok() ? Ask(&channel) : stop;
        if (!asked.ok()) return asked;
        if (open_ == 0 && next_ == todo_.size()) return absl::OkStatus();
        if (!busy && MonotonicNow() - quiet_since > kSpin) armed = channel.worker().Arm();
      }
      if (armed) channel.worker().Wait(kPoll);
      if (busy) quiet_since = MonotonicNow();
    }
  }

  // As much as the window lets. One connection for all of it: when that is lost, so is the rest.
  absl::Status Ask(Channel* channel) {
    while (open_ < kWindow && next_ < todo_.size()) {
      const absl::StatusOr<uint64_t> connection = channel->Connect(lane_->options_);
      if (!connection.ok()) return connection.status();
      if (connection_.value_or(*connection) != *connection) return absl::UnavailableError("ucx-tcp: the peer is gone");
      connection_ = *connection;
      Item& item = todo_[next_];
      const uint64_t length = std::min<uint64_t>(ucx::kChunkBytes, item.transfer->memory.size() - item.asked);
      if (item.transfer->status.ok()) channel->Ask({item.transfer, item.asked, length, &open_}, lane_->options_.token);
      item.asked += length;
      if (item.asked == item.transfer->memory.size() || !item.transfer->status.ok()) ++next_;
    }
    return absl::OkStatus();
  }

  absl::Status Interrupted() {
    const absl::Time now = MonotonicNow();
    if (options_.cancelled && now >= ask_next_) {
      ask_next_ = now + kAskEvery;
      if (options_.cancelled()) return absl::CancelledError("cancelled by the caller");
    }
    if (now < end_) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat("ucx-tcp: not done within ", absl::FormatDuration(options_.timeout)));
  }

  UcxTcpLane* const lane_;
  const RunOptions& options_;
  const absl::Time end_;
  absl::Time ask_next_ = absl::InfinitePast();
  std::vector<Item> todo_;
  size_t next_ = 0;  // the first item of which not all has been asked for
  size_t open_ = 0;  // chunks that are waited for; guarded by the channel's mutex
  std::optional<uint64_t> connection_;
};

UcxTcpLane::UcxTcpLane(std::unique_ptr<Channel> channel, UcxTcpLaneOptions options) : options_(std::move(options)), channel_(std::move(channel)) {}

UcxTcpLane::~UcxTcpLane() = default;

std::unique_ptr<UcxTcpLane> UcxTcpLane::Create(std::shared_ptr<UcpContext> context, UcxTcpLaneOptions options) {
  return std::unique_ptr<UcxTcpLane>(new UcxTcpLane(std::make_unique<Channel>(std::move(context)), std::move(options)));
}

void UcxTcpLane::Run(absl::Span<Transfer> transfers, const RunOptions& options) { Work(this, transfers, options).Run(); }

}  // namespace penstock
