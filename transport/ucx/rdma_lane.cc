#include "transport/ucx/rdma_lane.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/lane/quarantine.h"
#include "transport/monotonic.h"
#include "transport/ucx/ucp_endpoint.h"

namespace penstock {

using ucx::UcpEndpoint;
using ucx::UcpRemoteKey;
using ucx::UcpRequest;
using ucx::UcpWorker;

namespace {

constexpr size_t kMaxIdle = 16;  // connections kept for the next Run
constexpr size_t kMaxConnecting = 64;
constexpr size_t kProbeBytes = 8;
constexpr size_t kMaxKeys = 1024;  // unpacked, of one connection
constexpr absl::Duration kSpin = absl::Microseconds(50);
constexpr absl::Duration kPoll = absl::Milliseconds(1);  // rc loses wake-ups: this is what one costs then

constexpr absl::Duration kAskEvery = absl::Milliseconds(20);  // `cancelled`

inline void Relax() { __builtin_ia32_pause(); }

absl::Status CheckSize(const Transfer& transfer, uint64_t block_bytes) {
  if (absl::Status s = transfer.runs.CheckWithin(block_bytes); !s.ok()) return s;
  if (transfer.runs.bytes() == transfer.memory.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("memory: has ", transfer.memory.size(), " bytes, the runs ", transfer.runs.bytes()));
}

}  // namespace

// The worker, and the connections that nobody uses now.
class RdmaLane::Connections {
 public:
  struct Connection {
    std::string peer;
    std::unique_ptr<UcpEndpoint> endpoint;
    std::map<std::string, UcpRemoteKey> keys;  // destroyed before the endpoint
    // Connecting is done with a read into memory of the connection's own: one that is given up is not closed before it is
    // over (UCX 1.13 then ends the process with an assertion), and may be answered at any time.
    std::unique_ptr<char[]> probed = std::make_unique<char[]>(kProbeBytes);
    std::optional<UcpRequest> probe;

    bool settled() const { return probe && probe->Check() != UCS_INPROGRESS; }
    bool established() const { return probe && probe->Check() == UCS_OK; }

    absl::StatusOr<const UcpRemoteKey*> Key(const std::string& packed) {
      auto it = keys.find(packed);
      if (it != keys.end()) return &it->second;
      if (keys.size() >= kMaxKeys) keys.clear();  // nothing is under way with them: see Work::Submit
      absl::StatusOr<UcpRemoteKey> key = endpoint->Unpack(packed);
      if (!key.ok()) return key.status();
      return &keys.emplace(packed, *std::move(key)).first->second;
    }
  };

  explicit Connections(std::unique_ptr<UcpWorker> worker) : worker_(std::move(worker)) {}
  ~Connections() {
    idle_.clear();
    DropSettled();
    if (connecting_.empty()) return;
    for (auto& connection : connecting_) (void)connection.release();  // cannot be closed: see Connection::probe
    (void)worker_.release();
  }

  absl::StatusOr<std::unique_ptr<Connection>> Take(const std::string& peer) {
    std::lock_guard lock(mutex_);
    std::erase_if(idle_, [&](const auto& one) { return one->peer != peer || one->endpoint->failed(); });
    if (!idle_.empty()) {
      std::unique_ptr<Connection> connection = std::move(idle_.back());
      idle_.pop_back();
      return connection;
    }
    worker_->Progress();
    DropSettled();
    auto begun = std::find_if(connecting_.begin(), connecting_.end(), [&](const auto& one) { return one->peer == peer; });
    if (begun != connecting_.end()) {
      std::unique_ptr<Connection> connection = std::move(*begun);
      connecting_.erase(begun);
      return connection;
    }
    if (connecting_.size() >= kMaxConnecting) {
      return absl::UnavailableError(absl::StrCat("rdma: ", connecting_.size(), " peers do not answer to a connect; no further one is tried"));
    }
    absl::StatusOr<std::unique_ptr<UcpEndpoint>> endpoint = UcpEndpoint::Connect(worker_.get(), peer);
    if (!endpoint.ok()) return endpoint.status();
    auto connection = std::make_unique<Connection>();
    connection->peer = peer;
    connection->endpoint = *std::move(endpoint);
    return connection;
  }
  void GiveBack(std::unique_ptr<Connection> connection, bool sound) {
    std::lock_guard lock(mutex_);
    if (sound && !connection->endpoint->failed() && idle_.size() < kMaxIdle) {
      idle_.push_back(std::move(connection));
    } else if (connection->probe && !connection->settled()) {
      connecting_.push_back(std::move(connection));
    } else {
      connection.reset();
    }
  }

  std::mutex& mutex() { return mutex_; }
  UcpWorker& worker() { return *worker_; }

 private:
  void DropSettled() {
    std::erase_if(connecting_, [](const auto& one) { return one->settled() && !one->established(); });
  }

  std::mutex mutex_;  // of all that is UCX's
  std::unique_ptr<UcpWorker> worker_;
  std::vector<std::unique_ptr<Connection>> idle_;
  std::vector<std::unique_ptr<Connection>> connecting_;  // given up by who began them
};

// One Run.
class RdmaLane::Work {
 public:
  Work(RdmaLane* lane, absl::Span<Transfer> transfers, const RunOptions& options)
      : lane_(lane), connections_(lane->connections_.get()), options_(options), end_(MonotonicNow() + options.timeout) {
    for (Transfer& transfer : transfers) {
      absl::StatusOr<RemoteBlock> block = lane->options_.locate(transfer.grant, transfer.kind);
      transfer.status = block.ok() ? CheckSize(transfer, block->bytes) : block.status();
      if (transfer.status.ok() && !transfer.memory.empty()) items_.push_back({&transfer, *std::move(block), std::nullopt, 0});
    }
  }

  void Run() {
    if (items_.empty()) return;
    const absl::StatusOr<std::string> peer = lane_->options_.peer();
    auto connection = peer.ok() ? connections_->Take(*peer) : absl::StatusOr<std::unique_ptr<Connections::Connection>>(peer.status());
    if (!connection.ok()) return FailAll(connection.status());
    connection_ = *std::move(connection);
    absl::Status stopped = Establish();
    if (stopped.ok()) stopped = MoveAll();
    connections_->GiveBack(std::move(connection_), stopped.ok());
    if (!stopped.ok()) FailAll(stopped);
  }

 private:
  struct Item {
    Transfer* transfer;
    RemoteBlock block;
    std::optional<RunCursor> cursor;
    uint64_t moved;  // bytes given to UCX
  };

  struct UnderWay {
    UcpRequest request;
    uint64_t bytes;
  };

  // No memory of the caller's is used before the peer has answered.
  absl::Status Establish() {
    {
      std::lock_guard lock(connections_->mutex());  // also to look at a request: others make progress
      if (connection_->established()) return absl::OkStatus();
      if (!connection_->probe) {
        const RemoteBlock& block = items_.front().block;
        const absl::StatusOr<const UcpRemoteKey*> key = connection_->Key(block.key);
        if (!key.ok()) return key.status();
        connection_->probe = connection_->endpoint->Get(connection_->probed.get(), std::min<uint64_t>(kProbeBytes, block.bytes), block.address, **key);
      }
    }
    return Until([this](bool* busy) -> std::optional<absl::Status> {
      if (!connection_->settled()) {
        const absl::Status interrupted = Interrupted();
        return interrupted.ok() ? std::nullopt : std::optional<absl::Status>(interrupted);
      }
      *busy = true;
      return connection_->established() ? absl::OkStatus() : Gone(connection_->endpoint->failure());
    });
  }

  // Makes progress until `done` says so (under the lock), or an interruption.
  template <class Done>
  absl::Status Until(Done done) {
    absl::Time quiet_since = MonotonicNow();
    while (true) {
      AskWhetherCancelled();
      bool armed = false;
      bool busy = false;
      {
        std::lock_guard lock(connections_->mutex());
        busy = connections_->worker().Progress();
        if (const std::optional<absl::Status> status = done(&busy)) return *status;
        if (!busy && MonotonicNow() - quiet_since > kSpin) armed = connections_->worker().Arm();
      }
      if (armed) {
        connections_->worker().Wait(kPoll);
      } else if (busy) {
        quiet_since = MonotonicNow();
      } else {
        Relax();
      }
    }
  }

  // OK: all of them are done.
  absl::Status MoveAll() {
    next_ = 0;
    flush_ = std::any_of(items_.begin(), items_.end(), [](const Item& item) { return item.transfer->kind == TransferKind::kWrite; });
    for (Item& item : items_) {
      item.cursor.emplace(item.transfer->runs);
      item.moved = 0;
    }
    absl::Status stop;
    std::optional<Quarantine> quarantine;
    return Until([&](bool* busy) -> std::optional<absl::Status> {
      if (absl::Status s = Reap(busy); !s.ok() && stop.ok()) stop = s;
      if (stop.ok() && connection_->endpoint->failed()) stop = Gone(connection_->endpoint->failure());
      if (stop.ok()) stop = Interrupted();
      if (stop.ok()) stop = Submit();
      if (!stop.ok()) connection_->endpoint->ForceClose();  // UCX lets go of the memory, and says so
      if (!stop.ok() && !quarantine && !under_way_.empty()) quarantine.emplace(BytesUnderWay());
      if (under_way_.empty() && (!stop.ok() || Finished())) return stop;
      return std::nullopt;
    });
  }

  bool Finished() {
    if (next_ < items_.size()) return false;
    if (!flush_) return true;
    flush_ = false;  // puts are over here; there, only after this
    under_way_.push_back({connection_->endpoint->Flush(), 0});
    return false;
  }

  absl::Status Submit() {
    while (under_way_.size() < kWindow && next_ < items_.size()) {
      Item& item = items_[next_];
      if (item.cursor->done()) {
        ++next_;
        continue;
      }
      if (connection_->keys.size() >= kMaxKeys && !under_way_.empty() && !connection_->keys.contains(item.block.key)) return absl::OkStatus();
      const absl::StatusOr<const UcpRemoteKey*> key = connection_->Key(item.block.key);
      if (!key.ok()) return key.status();
      const RunCursor::Piece piece = item.cursor->Next(kPieceBytes);
      char* memory = item.transfer->memory.data() + item.moved;
      const uint64_t there = item.block.address + piece.offset;
      item.moved += piece.length;
      under_way_.push_back({item.transfer->kind == TransferKind::kRead
                                ? connection_->endpoint->Get(memory, piece.length, there, **key)
                                : connection_->endpoint->Put(memory, piece.length, there, **key),
                            piece.length});
    }
    return absl::OkStatus();
  }

  absl::Status Reap(bool* busy) {
    absl::Status failed;
    for (size_t i = 0; i < under_way_.size();) {
      const ucs_status_t status = under_way_[i].request.Check();
      if (status == UCS_INPROGRESS) {
        ++i;
        continue;
      }
      *busy = true;
      if (status != UCS_OK && failed.ok()) failed = Gone(ucx::UcsError(status, "transfer"));
      under_way_[i] = std::move(under_way_.back());
      under_way_.pop_back();
    }
    return failed;
  }

  uint64_t BytesUnderWay() const {
    uint64_t bytes = 0;
    for (const UnderWay& one : under_way_) bytes += one.bytes;
    return bytes;
  }

  // Whatever ends an operation on a connection ends the connection.
  static absl::Status Gone(const absl::Status& why) { return absl::UnavailableError(absl::StrCat("rdma: the peer is gone: ", why.message())); }

  // Without a lock: the caller may want one of its own.
  void AskWhetherCancelled() {
    const absl::Time now = MonotonicNow();
    if (!options_.cancelled || cancelled_ || now < ask_next_) return;
    ask_next_ = now + kAskEvery;
    cancelled_ = options_.cancelled();
  }

  absl::Status Interrupted() const {
    if (cancelled_) return absl::CancelledError("cancelled by the caller");
    if (MonotonicNow() < end_) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat("rdma: not done within ", absl::FormatDuration(options_.timeout)));
  }

  void FailAll(const absl::Status& why) {
    for (Item& item : items_) item.transfer->status = why;
  }

  RdmaLane* const lane_;
  Connections* const connections_;
  const RunOptions& options_;
  const absl::Time end_;
  absl::Time ask_next_ = absl::InfinitePast();
  bool cancelled_ = false;
  std::vector<Item> items_;
  std::unique_ptr<Connections::Connection> connection_;
  size_t next_ = 0;  // the first item that has bytes left to be given to UCX
  bool flush_ = false;
  std::vector<UnderWay> under_way_;
};

RdmaLane::RdmaLane(std::unique_ptr<Connections> connections, RdmaLaneOptions options)
    : options_(std::move(options)), connections_(std::move(connections)) {}

RdmaLane::~RdmaLane() = default;

absl::StatusOr<std::unique_ptr<RdmaLane>> RdmaLane::Create(std::shared_ptr<ucx::UcpContext> context, RdmaLaneOptions options) {
  absl::StatusOr<std::unique_ptr<UcpWorker>> worker = UcpWorker::Create(std::move(context));
  if (!worker.ok()) return worker.status();
  return std::unique_ptr<RdmaLane>(new RdmaLane(std::make_unique<Connections>(*std::move(worker)), std::move(options)));
}

void RdmaLane::Run(absl::Span<Transfer> transfers, const RunOptions& options) { Work(this, transfers, options).Run(); }

}  // namespace penstock
