// The one-sided lane: the conformance suite, and what only such a lane can do.
//
// On real verbs where there are any (tests/rdma runs this in a guest with a software RoCE device). Elsewhere over UCX's tcp
// on loopback: the lane's own code is the same, but UCX emulates one-sided access there with the target's help.
#include "transport/ucx/rdma_lane.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cstdlib>

#include "tests/unit/transport/lane_conformance.h"
#include "transport/monotonic.h"
#include "transport/ucx/rdma_target.h"

namespace penstock {
namespace {

// Null: no RDMA device.
std::shared_ptr<ucx::UcpContext> Rdma(RdmaEnd end = RdmaEnd::kReader) {
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = OpenRdma(end);
  if (!context.ok()) {
    EXPECT_TRUE(absl::IsNotFound(context.status())) << context.status();
    return nullptr;
  }
  return *context;
}

std::shared_ptr<ucx::UcpContext> AnyContext(RdmaEnd end) {
  if (auto rdma = Rdma(end)) return rdma;
  return OpenUcxForTest("tcp,self").value();
}

bool HasRdma() { return Rdma() != nullptr; }

class RdmaPair final : public LanePair {
 public:
  RdmaPair() : mine_(AnyContext(RdmaEnd::kReader)), theirs_(AnyContext(RdmaEnd::kOwner)) { StartTarget(); }

  std::unique_ptr<Lane> NewLane(const LaneToken& token) override {
    return RdmaLane::Create(mine_, {.peer = [this] { return PeerAddress(); },
                                    .locate = [this, token](uint64_t grant, TransferKind kind) { return Locate(token, grant, kind); }})
        .value();
  }
  std::string NoBreaking() const override {
    return HasRdma() ? "" : "no RDMA device, and UCX 1.13's tcp ends the target's process (an assertion) when a reader breaks off; tests/run rdma has one";
  }
  // A lane is a worker of UCX's here, with megabytes of buffers on verbs; a guest has little.
  int short_lives() const override { return HasRdma() ? 20 : 300; }
  void StopTarget() override {
    std::lock_guard lock(mutex_);
    target_.reset();
  }
  void StartTarget() override {
    std::lock_guard lock(mutex_);
    target_ = RdmaTarget::Start(theirs_).value();
  }

 private:
  absl::StatusOr<std::string> PeerAddress() {
    std::lock_guard lock(mutex_);
    if (target_ == nullptr) return absl::UnavailableError("no target");
    return target_->address();
  }
  // What the owner of the grants would have said over gRPC.
  absl::StatusOr<RemoteBlock> Locate(const LaneToken& token, uint64_t grant, TransferKind kind) {
    if (!grants_.KnowsToken(token)) return absl::PermissionDeniedError("token");
    absl::StatusOr<GrantedBlock> block = grants_.Use(token, grant, kind);
    if (!block.ok()) return block.status();
    std::lock_guard lock(mutex_);
    if (target_ == nullptr) return absl::UnavailableError("no target");
    absl::StatusOr<RdmaTarget::Registration> registered = target_->Register(block->data, block->bytes);
    if (!registered.ok()) return registered.status();
    using Held = std::pair<GrantedBlock, RdmaTarget::Registration>;
    auto held = std::make_shared<Held>(*block, *registered);
    return RemoteBlock{reinterpret_cast<uint64_t>(block->data), block->bytes, registered->key, held};
  }

  const std::shared_ptr<ucx::UcpContext> mine_;
  const std::shared_ptr<ucx::UcpContext> theirs_;
  std::mutex mutex_;
  std::unique_ptr<RdmaTarget> target_;
};

INSTANTIATE_TEST_SUITE_P(Rdma, LaneConformance,
                         ::testing::Values(+[]() -> std::unique_ptr<LanePair> { return std::make_unique<RdmaPair>(); }));

// --- what needs a target of its own process ---

// A process that shows `bytes` of 'x' and does nothing; killed with this.
class TargetProcess {
 public:
  explicit TargetProcess(size_t bytes, const std::string& tls = {}) : bytes_(bytes) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      Serve(pair[1], tls);
      _exit(1);
    }
    close(pair[1]);
    fd_ = pair[0];
    uint64_t address = 0;
    EXPECT_EQ(read(fd_, &address, sizeof(address)), static_cast<ssize_t>(sizeof(address)));
    block_.address = address;
    block_.bytes = bytes;
    block_.key = Receive();
    worker_ = Receive();
    part_key_ = Receive();
  }
  // From now on its middle third is a part of the whole only.
  void TakeBackPart() {
    char done = 0;
    EXPECT_EQ(write(fd_, "u", 1), 1);
    EXPECT_EQ(read(fd_, &done, 1), 1);
  }
  // With the key of the part.
  void UsePart() { block_ = {.address = block_.address + bytes_ / 3, .bytes = bytes_ / 3, .key = part_key_, .hold = nullptr}; }
  void UseWhole(const RemoteBlock& block) { block_ = block; }
  const RemoteBlock& block() const { return block_; }
  ~TargetProcess() {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
    close(fd_);
  }
  // SIGSTOP: and waits until it is stopped.
  void Signal(int number) const {
    kill(pid_, number);
    siginfo_t info;
    if (number == SIGSTOP) waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WNOWAIT);
  }
  void Kill() const {
    Signal(SIGKILL);
    siginfo_t info;
    waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  std::unique_ptr<Lane> NewLane(std::shared_ptr<ucx::UcpContext> context) const {
    return RdmaLane::Create(std::move(context), {.peer = [this] { return worker_; }, .locate = [this](uint64_t, TransferKind) { return block_; }}).value();
  }

 private:
  void Serve(int fd, const std::string& tls) const {
    auto target = RdmaTarget::Start(tls.empty() ? OpenRdma(RdmaEnd::kOwner).value() : OpenUcxForTest(tls).value()).value();
    const int memory = memfd_create("block", MFD_CLOEXEC);
    if (ftruncate(memory, static_cast<off_t>(bytes_)) != 0) return;
    char* data = static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0));
    std::memset(data, 'x', bytes_);
    const RdmaTarget::Registration registered = target->Register(data, bytes_).value();
    RdmaTarget::Registration part = target->Register(data + bytes_ / 3, bytes_ / 3).value();
    const auto address = reinterpret_cast<uint64_t>(data);
    if (write(fd, &address, sizeof(address)) < 0) return;
    Say(fd, registered.key);
    Say(fd, target->address());
    Say(fd, part.key);
    char go;
    (void)!read(fd, &go, 1);
    part = {};
    (void)!write(fd, &go, 1);
    (void)!read(fd, &go, 1);
  }
  static void Say(int fd, const std::string& text) {
    const uint32_t size = static_cast<uint32_t>(text.size());
    if (write(fd, &size, sizeof(size)) < 0 || write(fd, text.data(), size) < 0) _exit(1);
  }
  std::string Receive() const {
    uint32_t size = 0;
    EXPECT_EQ(read(fd_, &size, sizeof(size)), static_cast<ssize_t>(sizeof(size)));
    std::string text(size, '\0');
    EXPECT_EQ(read(fd_, text.data(), size), static_cast<ssize_t>(size));
    return text;
  }

  const size_t bytes_;
  pid_t pid_ = -1;
  int fd_ = -1;
  RemoteBlock block_;
  std::string worker_, part_key_;
};

class OnVerbs : public ::testing::Test {
 protected:
  void SetUp() override {
    // The target first: a process that has opened UCX must not fork.
    target_ = fork_first();
    if (target_ == nullptr) GTEST_SKIP() << "no RDMA device here; tests/run rdma has one";
    lane_ = target_->NewLane(Rdma());
  }
  static std::unique_ptr<TargetProcess> fork_first() {
    const pid_t probe = fork();
    if (probe == 0) _exit(OpenRdma(RdmaEnd::kReader).ok() ? 0 : 1);
    int status = 0;
    waitpid(probe, &status, 0);
    return WEXITSTATUS(status) == 0 ? std::make_unique<TargetProcess>(kBytes) : nullptr;
  }
  absl::Status Move(TransferKind kind, absl::Duration timeout = absl::Seconds(30)) {
    Transfer transfer{.kind = kind, .grant = 1, .runs = ByteRuns::Whole(memory_.size()), .memory = absl::MakeSpan(memory_)};
    lane_->Run(absl::MakeSpan(&transfer, 1), {.timeout = timeout});
    return transfer.status;
  }
  bool AllAre(char c) const { return std::count(memory_.begin(), memory_.end(), c) == static_cast<ptrdiff_t>(kBytes); }

  static constexpr size_t kBytes = 3 << 20;
  std::unique_ptr<TargetProcess> target_;
  std::unique_ptr<Lane> lane_;
  std::vector<char> memory_ = std::vector<char>(kBytes, 'm');
};

TEST_F(OnVerbs, AStoppedTargetIsReadAndWritten) {
  ASSERT_TRUE(Move(TransferKind::kRead).ok()) << "connects, while the target runs";
  target_->Signal(SIGSTOP);
  std::fill(memory_.begin(), memory_.end(), 'n');
  ASSERT_TRUE(Move(TransferKind::kWrite).ok());
  std::fill(memory_.begin(), memory_.end(), 'm');
  const absl::Status read = Move(TransferKind::kRead);
  EXPECT_TRUE(read.ok()) << read;
  EXPECT_TRUE(AllAre('n'));
}

// What a writer was given goes when it is taken back, whatever else is registered there and whoever still holds the key.
TEST_F(OnVerbs, WhatIsUnregisteredIsWrittenNoMore) {
  ASSERT_TRUE(RdmaTarget::Start(OpenRdma(RdmaEnd::kOwner).value()).value()->takes_back());
  ASSERT_TRUE(Move(TransferKind::kRead).ok());
  const RemoteBlock whole = target_->block();
  target_->UsePart();
  memory_.assign(kBytes / 3, 'p');
  ASSERT_TRUE(Move(TransferKind::kWrite).ok());
  target_->TakeBackPart();
  memory_.assign(kBytes / 3, 'q');
  const absl::Status late = Move(TransferKind::kWrite);
  EXPECT_TRUE(absl::IsUnavailable(late)) << late;
  target_->UseWhole(whole);
  memory_.assign(kBytes, 'm');
  const absl::Status read = Move(TransferKind::kRead);
  ASSERT_TRUE(read.ok()) << read;
  const size_t third = kBytes / 3;
  EXPECT_EQ(std::count(memory_.begin(), memory_.end(), 'q'), 0);
  EXPECT_EQ(std::count(memory_.begin() + third, memory_.begin() + 2 * third, 'p'), static_cast<ptrdiff_t>(third));
  EXPECT_EQ(std::count(memory_.begin(), memory_.end(), 'x'), static_cast<ptrdiff_t>(2 * third));
}

TEST_F(OnVerbs, WhatIsGivenUpIsQuarantinedUntilTheDeviceHasLetGoOfIt) {
  ASSERT_TRUE(Move(TransferKind::kRead).ok());
  const uint64_t before = Quarantine::count();
  // Enough to be far from done when it is asked for the second time.
  std::vector<Transfer> transfers(40, {.grant = 1, .runs = ByteRuns::Whole(memory_.size()), .memory = absl::MakeSpan(memory_)});
  int asked = 0;
  lane_->Run(absl::MakeSpan(transfers), {.timeout = absl::Seconds(30), .cancelled = [&] { return ++asked > 1; }});
  EXPECT_TRUE(absl::IsCancelled(transfers.back().status)) << transfers.back().status;
  EXPECT_EQ(Quarantine::count(), before + 1);
  EXPECT_EQ(Quarantine::bytes(), 0u);
}

TEST_F(OnVerbs, AKilledTargetIsUnavailable) {
  ASSERT_TRUE(Move(TransferKind::kRead).ok());
  target_->Kill();
  const absl::Time before = MonotonicNow();
  const absl::Status status = Move(TransferKind::kRead, absl::Seconds(5));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_LT(MonotonicNow() - before, absl::Seconds(5 + 1)) << "the deadline, and a second at most";
}

TEST_F(OnVerbs, AConnectToAStoppedTargetEndsAtItsDeadline) {
  target_->Signal(SIGSTOP);
  const absl::Time before = MonotonicNow();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Move(TransferKind::kRead, absl::Seconds(1))));
  EXPECT_LT(MonotonicNow() - before, absl::Seconds(2)) << "the deadline, and a second at most";
  std::fill(memory_.begin(), memory_.end(), 'z');
  target_->Signal(SIGCONT);
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_TRUE(AllAre('z')) << "nothing arrives in memory that was handed back";
  EXPECT_TRUE(Move(TransferKind::kRead).ok());
  EXPECT_TRUE(AllAre('x'));
}

// UCX_NET_DEVICES, where it names the RDMA device, would leave tcp without one.
class OverTcp : public ::testing::Test {
 protected:
  OverTcp() {
    if (const char* devices = std::getenv("UCX_NET_DEVICES")) devices_ = devices;
    unsetenv("UCX_NET_DEVICES");
  }
  ~OverTcp() override {
    if (devices_) setenv("UCX_NET_DEVICES", devices_->c_str(), 1);
  }
  std::optional<std::string> devices_;
};

// The other half of OnVerbs.AStoppedTargetIsReadAndWritten: it tells real one-sided access from UCX's emulation.
TEST_F(OverTcp, AStoppedTargetIsNotRead) {
  constexpr size_t kBytes = 3 << 20;
  TargetProcess target(kBytes, "tcp");
  auto lane = target.NewLane(OpenUcxForTest("tcp").value());
  std::vector<char> memory(kBytes);
  auto read = [&](absl::Duration timeout) {
    Transfer transfer{.grant = 1, .runs = ByteRuns::Whole(kBytes), .memory = absl::MakeSpan(memory)};
    lane->Run(absl::MakeSpan(&transfer, 1), {.timeout = timeout});
    return transfer.status;
  };
  ASSERT_TRUE(read(absl::Seconds(20)).ok());
  target.Signal(SIGSTOP);
  EXPECT_TRUE(absl::IsDeadlineExceeded(read(absl::Seconds(1))));
}

// --- what is opened ---

// Sockets of this process that listen.
int Listening() {
  int count = 0;
  for (int fd = 0; fd < 1024; ++fd) {
    int listens = 0;
    socklen_t size = sizeof(listens);
    count += getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0;
  }
  return count;
}

TEST_F(OverTcp, IsNeverOpenedByOpenRdmaWhateverTheEnvironmentSays) {
  const char* before_test = std::getenv("UCX_TLS");
  const std::optional<std::string> chosen = before_test ? std::optional<std::string>(before_test) : std::nullopt;
  for (const char* tls : {"tcp", "all", "tcp,rc", "^rc", "rc_v,sm"}) {
    setenv("UCX_TLS", tls, 1);
    const int before = Listening();
    const auto context = OpenRdma(RdmaEnd::kOwner);
    if (context.ok()) {
      const auto target = RdmaTarget::Start(*context);
      EXPECT_EQ(Listening(), before) << tls;
    } else {
      EXPECT_TRUE(absl::IsNotFound(context.status())) << context.status();
    }
  }
  chosen ? setenv("UCX_TLS", chosen->c_str(), 1) : unsetenv("UCX_TLS");
  const int before = Listening();
  const auto target = RdmaTarget::Start(OpenUcxForTest("tcp").value()).value();
  EXPECT_GT(Listening(), before) << "the control: this is how it would look";
}

TEST(UcxVersion, IsThatOfTheLoadedLibrary) {
  const char* expected = std::getenv("TEST_UCX_VERSION");
  EXPECT_THAT(UcxVersion(), ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+.*"));
  if (expected != nullptr) {
    EXPECT_THAT(UcxVersion(), ::testing::StartsWith(expected));
  }
}

}  // namespace
}  // namespace penstock
