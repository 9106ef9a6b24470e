// Blocks that are still being filled, on the data port: nothing goes out before it is there, and nobody waits for others' blocks.
#include <gmock/gmock.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/unit/transport/grants_for_test.h"
#include "transport/stream/stream_lane.h"
#include "transport/stream/stream_server.h"
#include "transport/unique_fd.h"

namespace penstock {
namespace {

using ::testing::HasSubstr;

// Is filled from its begin on; what is not there yet shows '?'.
class BlockForTest final : public GrowingBlock {
 public:
  BlockForTest(std::vector<char> whole, int bell_fd) : whole_(std::move(whole)), data_(whole_.size(), '?'), bell_fd_(bell_fd) {}

  absl::StatusOr<uint64_t> Ready(uint64_t offset) override {
    std::lock_guard lock(mutex_);
    if (offset < there_) return there_ - offset;
    if (!failed_.ok()) return failed_;
    return 0;
  }
  void Grow(uint64_t bytes) {
    {
      std::lock_guard lock(mutex_);
      bytes = std::min(bytes, whole_.size() - there_);
      std::copy_n(whole_.begin() + static_cast<int64_t>(there_), bytes, data_.begin() + static_cast<int64_t>(there_));
      there_ += bytes;
    }
    Ring();
  }
  void Fail(const absl::Status& why) {
    {
      std::lock_guard lock(mutex_);
      failed_ = why;
    }
    Ring();
  }
  char* data() { return data_.data(); }

 private:
  void Ring() const {
    const uint64_t one = 1;
    (void)!write(bell_fd_, &one, sizeof(one));
  }

  const std::vector<char> whole_;
  std::vector<char> data_;
  const int bell_fd_;
  std::mutex mutex_;
  uint64_t there_ = 0;
  absl::Status failed_;
};

class GrowingTest : public ::testing::TestWithParam<bool> {  // with TLS
 protected:
  void SetUp() override {
    bell_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    grants_.AddToken(token_);
    server_ = StreamServer::Start({.grants = &grants_, .threads = 1, .bell_fd = bell_.get(), .tls = GetParam()}).value();
    lane_ = NewLane();
  }
  std::unique_ptr<Lane> NewLane() {
    return std::make_unique<StreamLane>(StreamLaneOptions{.address = absl::StrCat("127.0.0.1:", server_->port()), .token = token_, .tls = GetParam()});
  }
  std::shared_ptr<BlockForTest> NewBlock(size_t bytes) {
    whole_.resize(bytes);
    for (char& c : whole_) c = static_cast<char>(random_());
    auto block = std::make_shared<BlockForTest>(whole_, bell_.get());
    grant_ = grants_.AddGrowing(token_, block->data(), bytes, block);
    return block;
  }
  absl::Status Read(std::vector<char>* out, RunOptions options = {.timeout = absl::Seconds(30)}) {
    out->assign(whole_.size(), '!');
    Transfer read{.grant = grant_, .runs = ByteRuns::Whole(whole_.size()), .memory = absl::MakeSpan(*out)};
    read.arrived = [this](uint64_t, uint64_t length) { arrived_.fetch_add(length); };
    lane_->Run(absl::MakeSpan(&read, 1), options);
    return read.status;
  }

  const LaneToken token_ = GrantsForTest::Token(1);
  GrantsForTest grants_;
  UniqueFd bell_;
  std::unique_ptr<StreamServer> server_;
  std::unique_ptr<Lane> lane_;
  std::vector<char> whole_;
  uint64_t grant_ = 0;
  std::atomic<uint64_t> arrived_{0};
  std::mt19937_64 random_{7};
};

INSTANTIATE_TEST_SUITE_P(Tcp, GrowingTest, ::testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Tls, GrowingTest, ::testing::Values(true));

TEST_P(GrowingTest, BytesAreSentWhenTheyHaveCome) {
  for (const size_t bytes : {100, 16 << 10, (1 << 20) + 5, 40'000'000}) {
    const std::shared_ptr<BlockForTest> block = NewBlock(bytes);
    std::thread grows([&] {
      for (uint64_t left = bytes; left > 0;) {
        const uint64_t more = std::min<uint64_t>(left, 1 + random_() % (bytes / 20));
        absl::SleepFor(absl::Microseconds(random_() % 2000));
        block->Grow(more);
        left -= more;
      }
    });
    std::vector<char> out;
    arrived_ = 0;
    const absl::Status status = Read(&out);
    grows.join();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(out == whole_) << bytes;
    EXPECT_EQ(arrived_.load(), bytes);
  }
}

TEST_P(GrowingTest, WhatIsThereComesBeforeTheRestAndTheBellIsHeard) {
  const std::shared_ptr<BlockForTest> block = NewBlock(8 << 20);
  block->Grow(1 << 20);
  std::vector<char> out;
  std::thread reads([&] { EXPECT_TRUE(Read(&out).ok()); });
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (arrived_.load() < 1 << 20 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(arrived_.load(), uint64_t{1} << 20);
  const absl::Time began = absl::Now();
  for (int i = 0; i < 100; ++i) {  // a tick of 200 ms for each would take 20 s
    const uint64_t before = arrived_.load();
    block->Grow(4096);
    while (arrived_.load() == before && absl::Now() < deadline) absl::SleepFor(absl::Microseconds(100));
  }
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  block->Grow(8 << 20);
  reads.join();
  EXPECT_TRUE(out == whole_);
}

TEST_P(GrowingTest, WhoWaitsHoldsUpNobodyElse) {
  const std::shared_ptr<BlockForTest> block = NewBlock(8 << 20);
  std::vector<char> out;
  std::thread reads([&] { EXPECT_TRUE(Read(&out).ok()); });
  const auto other = NewLane();
  const uint64_t grant = grants_.Add(token_, std::vector<char>(1 << 20, 'x'));
  for (int i = 0; i < 50; ++i) {
    std::vector<char> bytes(1 << 20);
    Transfer read{.grant = grant, .runs = ByteRuns::Whole(bytes.size()), .memory = absl::MakeSpan(bytes)};
    other->Run(absl::MakeSpan(&read, 1), {});
    ASSERT_TRUE(read.status.ok()) << read.status;
    ASSERT_EQ(bytes.back(), 'x');
  }
  block->Grow(8 << 20);
  reads.join();
}

TEST_P(GrowingTest, ABlockThatWillNotBeWholeIsAnErrorAtOnce) {
  for (const uint64_t there : {0, 3 << 20}) {
    const std::shared_ptr<BlockForTest> block = NewBlock(8 << 20);
    block->Grow(there);
    arrived_ = 0;
    std::thread fails([&] {
      while (arrived_.load() < there) absl::SleepFor(absl::Milliseconds(1));
      absl::SleepFor(absl::Milliseconds(50));
      block->Fail(absl::UnavailableError("the holder is gone"));
    });
    std::vector<char> out;
    const absl::Time began = absl::Now();
    const absl::Status status = Read(&out);
    fails.join();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    const std::string why = there == 0 ? "the holder is gone" : "";  // after the answer's head the connection can only be cut
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
    EXPECT_LT(absl::Now() - began, absl::Seconds(5));
    EXPECT_TRUE(std::equal(whole_.begin(), whole_.begin() + static_cast<int64_t>(there), out.begin())) << "what had come is right";
  }
}

TEST_P(GrowingTest, AReaderThatLeavesIsNoticedThoughNothingComes) {
  std::shared_ptr<BlockForTest> block = NewBlock(8 << 20);
  std::atomic<bool> leave{false};
  std::vector<char> out;
  std::thread reads([&] {
    EXPECT_TRUE(absl::IsCancelled(Read(&out, {.timeout = absl::Seconds(30), .cancelled = [&] { return leave.load(); }})));
  });
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  const long kept = 2;  // here and in the table
  while (block.use_count() == kept && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_GT(block.use_count(), kept);
  leave = true;
  reads.join();
  while (block.use_count() > kept && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(block.use_count(), kept);
  const std::shared_ptr<BlockForTest> next = NewBlock(8 << 20);
  std::thread waits([&] { (void)Read(&out); });
  while (next.use_count() == kept && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  grants_.ForgetToken(token_);  // its session is over
  server_->Disconnect(token_);
  waits.join();
  EXPECT_LT(absl::Now(), deadline);
}

TEST_P(GrowingTest, ShortRunsOfABlockThatFailsAreAnError) {
  const std::shared_ptr<BlockForTest> block = NewBlock(1 << 20);
  block->Grow(1 << 19);
  std::vector<char> out(100);
  Transfer read{.grant = grant_, .runs = ByteRuns::Whole(out.size()), .memory = absl::MakeSpan(out)};
  std::thread fails([&] {
    absl::SleepFor(absl::Milliseconds(20));
    block->Fail(absl::UnavailableError("gone"));
  });
  lane_->Run(absl::MakeSpan(&read, 1), {});
  fails.join();
  EXPECT_TRUE(absl::IsUnavailable(read.status)) << read.status;
}

TEST_P(GrowingTest, ShortRunsWaitForTheWholeBlock) {
  const std::shared_ptr<BlockForTest> block = NewBlock(1 << 20);
  std::vector<char> out(1024 * 100);
  Transfer read{.grant = grant_, .runs = {.offset = 7, .run_bytes = 100, .dims = {{1024, 1024}}}, .memory = absl::MakeSpan(out)};
  std::thread grows([&] {
    for (int i = 0; i < 16; ++i) {
      absl::SleepFor(absl::Milliseconds(2));
      block->Grow(64 << 10);
    }
  });
  lane_->Run(absl::MakeSpan(&read, 1), {});
  grows.join();
  ASSERT_TRUE(read.status.ok()) << read.status;
  for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], whole_[7 + i / 100 * 1024 + i % 100]) << i;
}

}  // namespace
}  // namespace penstock
