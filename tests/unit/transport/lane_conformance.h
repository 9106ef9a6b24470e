// What every lane must do, written once: INSTANTIATE_TEST_SUITE_P(Stream, LaneConformance, ::testing::Values(&NewStreamPair)).
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/unit/transport/grants_for_test.h"
#include "transport/lane/lane.h"
#include "transport/lane/quarantine.h"

namespace penstock {

// Both ends of a lane on this machine.
class LanePair {
 public:
  virtual ~LanePair() = default;
  // A lane whose requests carry this token.
  virtual std::unique_ptr<Lane> NewLane(const LaneToken& token) = 0;
  virtual void StopTarget() = 0;
  virtual void StartTarget() = 0;  // under the same address
  GrantsForTest& grants() { return grants_; }
  // Why this pair cannot have a connection broken off by its reader; empty: it can.
  virtual std::string NoBreaking() const { return {}; }
  virtual int short_lives() const { return 300; }

 protected:
  GrantsForTest grants_;
};

using NewLanePair = std::unique_ptr<LanePair> (*)();

class LaneConformance : public ::testing::TestWithParam<NewLanePair> {
 protected:
  void SetUp() override {
    grants().AddToken(token_);
    lane_ = pair_->NewLane(token_);
    if (const char* seed = std::getenv("PENSTOCK_TEST_SEED")) random_.seed(static_cast<unsigned>(std::atoi(seed)));
  }
  void TearDown() override {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (grants().uses() != 0 && absl::Now() < deadline) std::this_thread::yield();
    EXPECT_EQ(grants().uses(), 0) << "something still uses a block";
  }

  GrantsForTest& grants() { return pair_->grants(); }
  std::vector<char> Random(size_t bytes) {
    std::vector<char> out(bytes);
    for (char& c : out) c = static_cast<char>(random_());
    return out;
  }
  static absl::Status RunOne(Lane* lane, Transfer transfer, absl::Duration timeout = absl::Seconds(20)) {
    lane->Run(absl::MakeSpan(&transfer, 1), {.timeout = timeout});
    return transfer.status;
  }
  absl::Status Read(uint64_t grant, const ByteRuns& runs, std::vector<char>* out) {
    return RunOne(lane_.get(), {.grant = grant, .runs = runs, .memory = absl::MakeSpan(*out)});
  }
  absl::Status Write(uint64_t grant, const ByteRuns& runs, std::vector<char> from) {
    return RunOne(lane_.get(), {.kind = TransferKind::kWrite, .grant = grant, .runs = runs, .memory = absl::MakeSpan(from)});
  }
  // Transfers that take long enough to be broken off, each with a block and memory of its own.
  std::vector<Transfer> MuchToDo(TransferKind kind, std::vector<std::vector<char>>* memory) {
    constexpr size_t kBytes = 16 << 20;
    std::vector<Transfer> transfers;
    for (int i = 0; i < 12; ++i) memory->emplace_back(kBytes, 'y');
    for (std::vector<char>& one : *memory) {
      const uint64_t grant = grants().Add(token_, std::vector<char>(kBytes, 'x'), true);
      transfers.push_back({.kind = kind, .grant = grant, .runs = ByteRuns::Whole(kBytes), .memory = absl::MakeSpan(one)});
    }
    return transfers;
  }
  // Runs that lie in a block of `bytes`, of any form.
  ByteRuns RandomRuns(uint64_t bytes) {
    ByteRuns runs;
    runs.run_bytes = 1 + random_() % (random_() % 2 == 0 ? 64 : 50'000);
    uint64_t end = runs.run_bytes;
    for (size_t dims = random_() % 5; dims > 0; --dims) {
      const RunDim dim{1 + random_() % 5, end + random_() % 100};
      if (end + (dim.count - 1) * dim.stride_bytes > bytes) break;
      end += (dim.count - 1) * dim.stride_bytes;
      runs.dims.insert(runs.dims.begin(), dim);
    }
    runs.offset = random_() % (bytes - end + 1);
    return runs;
  }
  static std::vector<uint64_t> Offsets(const ByteRuns& runs) {  // of every byte, the slow way
    std::vector<uint64_t> starts = {runs.offset};
    for (const RunDim& dim : runs.dims) {
      std::vector<uint64_t> next;
      for (uint64_t start : starts) {
        for (uint64_t i = 0; i < dim.count; ++i) next.push_back(start + i * dim.stride_bytes);
      }
      starts.swap(next);
    }
    std::vector<uint64_t> offsets;
    for (uint64_t start : starts) {
      for (uint64_t i = 0; i < runs.run_bytes; ++i) offsets.push_back(start + i);
    }
    return offsets;
  }

  const LaneToken token_ = GrantsForTest::Token(1);
  std::unique_ptr<LanePair> pair_ = GetParam()();
  std::unique_ptr<Lane> lane_;
  std::mt19937_64 random_{20260101};
};

TEST_P(LaneConformance, ReadsBlocksOfAnySize) {
  for (size_t bytes : {1, 255, 4096, 16 << 10, (16 << 10) + 1, 1 << 20, (4 << 20) - 1, (4 << 20) + 1, 33'333'333}) {
    const std::vector<char> block = Random(bytes);
    const uint64_t grant = grants().Add(token_, block);
    std::vector<char> out(bytes);
    ASSERT_TRUE(Read(grant, ByteRuns::Whole(bytes), &out).ok()) << bytes;
    EXPECT_TRUE(out == block) << bytes;
    grants().Revoke(grant);
  }
}

TEST_P(LaneConformance, WritesBlocksOfAnySize) {
  for (size_t bytes : {1, 255, 4096, (16 << 10) + 1, 1 << 20, (4 << 20) + 1, 33'333'333}) {
    const std::vector<char> block = Random(bytes);
    const uint64_t grant = grants().Add(token_, std::vector<char>(bytes), /*writable=*/true);
    ASSERT_TRUE(Write(grant, ByteRuns::Whole(bytes), block).ok()) << bytes;
    EXPECT_TRUE(grants().Bytes(grant) == block) << bytes;
    grants().Revoke(grant);
  }
}

TEST_P(LaneConformance, NothingToMoveIsDoneWhereTheGrantIsKnown) {
  std::vector<char> none;
  const uint64_t grant = grants().Add(token_, Random(10), true);
  EXPECT_TRUE(Read(grant, ByteRuns::Whole(0), &none).ok());
  EXPECT_TRUE(Write(grant, ByteRuns::Whole(0), none).ok());
  EXPECT_TRUE(Read(grant, {.offset = 5, .run_bytes = 4, .dims = {{0, 7}}}, &none).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(Read(grant + 1, ByteRuns::Whole(0), &none)));
  lane_->Run({}, {});
}

TEST_P(LaneConformance, RunsAreReadAndWrittenWhereTheyLie) {
  for (int round = 0; round < 200; ++round) {
    const std::vector<char> block = Random(1 + random_() % 2'000'000 + 60'000);
    const ByteRuns runs = RandomRuns(block.size());
    const std::vector<uint64_t> offsets = Offsets(runs);
    const uint64_t grant = grants().Add(token_, block, true);
    std::vector<char> out(offsets.size());
    ASSERT_TRUE(Read(grant, runs, &out).ok());
    for (size_t i = 0; i < offsets.size(); ++i) ASSERT_EQ(out[i], block[offsets[i]]) << "round " << round << ", byte " << i;
    const std::vector<char> fresh = Random(offsets.size());
    std::vector<char> expected = block;
    for (size_t i = 0; i < offsets.size(); ++i) expected[offsets[i]] = fresh[i];
    ASSERT_TRUE(Write(grant, runs, fresh).ok());
    ASSERT_TRUE(grants().Bytes(grant) == expected) << "round " << round;
    grants().Revoke(grant);
  }
}

TEST_P(LaneConformance, EveryTransferOfARunHasItsOwnResult) {
  constexpr int kCount = 1000;
  std::vector<std::vector<char>> blocks, outs;
  std::vector<Transfer> transfers;
  for (int i = 0; i < kCount; ++i) {
    blocks.push_back(Random(1 + random_() % 9000));
    outs.emplace_back(blocks.back().size());
  }
  for (int i = 0; i < kCount; ++i) {
    const bool bad = i % 97 == 5;
    const uint64_t grant = grants().Add(bad ? GrantsForTest::Token(9) : token_, blocks[i], i % 3 == 0);
    if (i % 3 == 0) {
      transfers.push_back({.kind = TransferKind::kWrite, .grant = grant, .runs = ByteRuns::Whole(blocks[i].size()), .memory = absl::MakeSpan(outs[i])});
    } else {
      transfers.push_back({.grant = grant, .runs = ByteRuns::Whole(blocks[i].size()), .memory = absl::MakeSpan(outs[i])});
    }
  }
  lane_->Run(absl::MakeSpan(transfers), {.timeout = absl::Seconds(20)});
  for (int i = 0; i < kCount; ++i) {
    if (i % 97 == 5) {
      EXPECT_TRUE(absl::IsPermissionDenied(transfers[i].status)) << i << " " << transfers[i].status;
    } else if (i % 3 == 0) {
      EXPECT_TRUE(transfers[i].status.ok()) << i << " " << transfers[i].status;
      EXPECT_TRUE(grants().Bytes(transfers[i].grant) == outs[i]) << i;
    } else {
      EXPECT_TRUE(transfers[i].status.ok()) << i << " " << transfers[i].status;
      EXPECT_TRUE(outs[i] == blocks[i]) << i;
    }
  }
}

TEST_P(LaneConformance, RunsOutsideOfTheBlockMoveNothing) {
  const std::vector<char> block = Random(1000);
  const uint64_t grant = grants().Add(token_, block, true);
  const uint64_t huge = ~uint64_t{0};
  const std::vector<ByteRuns> outside = {
      {.offset = 0, .run_bytes = 1001, .dims = {}},          {.offset = 1000, .run_bytes = 1, .dims = {}},
      {.offset = huge, .run_bytes = 1, .dims = {}},          {.offset = huge - 2, .run_bytes = 10, .dims = {}},
      {.offset = 0, .run_bytes = 10, .dims = {{2, 991}}},    {.offset = 0, .run_bytes = 1, .dims = {{2, huge}}},
      {.offset = 0, .run_bytes = 1, .dims = {{3, huge / 2}}}};
  for (const ByteRuns& runs : outside) {
    std::vector<char> memory(runs.bytes(), 7);
    EXPECT_TRUE(absl::IsInvalidArgument(Read(grant, runs, &memory))) << runs.offset;
    EXPECT_EQ(std::count(memory.begin(), memory.end(), 7), static_cast<ptrdiff_t>(memory.size()));
    EXPECT_TRUE(absl::IsInvalidArgument(Write(grant, runs, memory))) << runs.offset;
  }
  std::vector<char> small(999);
  EXPECT_TRUE(absl::IsInvalidArgument(Read(grant, ByteRuns::Whole(1000), &small)));
  EXPECT_TRUE(grants().Bytes(grant) == block);
}

TEST_P(LaneConformance, AWriteOfAReadOnlyGrantChangesNothing) {
  const std::vector<char> block = Random(3'000'000);
  const uint64_t grant = grants().Add(token_, block);
  EXPECT_TRUE(absl::IsPermissionDenied(Write(grant, ByteRuns::Whole(block.size()), Random(block.size()))));
  EXPECT_TRUE(grants().Bytes(grant) == block);
}

TEST_P(LaneConformance, StrangersAndRevokedGrantsGetNothing) {
  const uint64_t grant = grants().Add(token_, Random(5000));
  std::vector<char> out(5000, 7);
  const std::vector<char> untouched = out;
  const auto stranger = pair_->NewLane(GrantsForTest::Token(2));
  const Transfer read{.grant = grant, .runs = ByteRuns::Whole(5000), .memory = absl::MakeSpan(out)};
  EXPECT_TRUE(absl::IsPermissionDenied(RunOne(stranger.get(), read)));
  grants().AddToken(GrantsForTest::Token(2));  // known now, but the grant is another's
  EXPECT_TRUE(absl::IsPermissionDenied(RunOne(stranger.get(), read)));
  EXPECT_TRUE(RunOne(lane_.get(), read).ok());
  out = untouched;
  grants().Revoke(grant);
  EXPECT_TRUE(absl::IsPermissionDenied(RunOne(lane_.get(), read)));
  EXPECT_TRUE(out == untouched);
}

TEST_P(LaneConformance, APeerThatIsGoneIsUnavailableUntilItIsBack) {
  const std::vector<char> block = Random(100'000);
  const uint64_t grant = grants().Add(token_, block);
  std::vector<char> out(block.size());
  ASSERT_TRUE(Read(grant, ByteRuns::Whole(block.size()), &out).ok());
  pair_->StopTarget();
  EXPECT_TRUE(absl::IsUnavailable(Read(grant, ByteRuns::Whole(block.size()), &out)));
  pair_->StartTarget();
  std::fill(out.begin(), out.end(), 0);
  EXPECT_TRUE(Read(grant, ByteRuns::Whole(block.size()), &out).ok());
  EXPECT_TRUE(out == block);
}

TEST_P(LaneConformance, APeerThatGoesInTheMiddleEndsWhatIsUnderWay) {
  for (TransferKind kind : {TransferKind::kRead, TransferKind::kWrite}) {
    std::vector<char> first(100);  // there is a connection when it begins
    ASSERT_TRUE(Read(grants().Add(token_, first), ByteRuns::Whole(100), &first).ok());
    std::vector<std::vector<char>> memory;
    std::vector<Transfer> transfers = MuchToDo(kind, &memory);
    std::thread stopper([&, before = grants().asked()] {
      const absl::Time deadline = absl::Now() + absl::Seconds(10);
      while (grants().asked() == before && absl::Now() < deadline) std::this_thread::yield();
      pair_->StopTarget();
    });
    lane_->Run(absl::MakeSpan(transfers), {.timeout = absl::Seconds(20)});
    stopper.join();
    EXPECT_TRUE(std::any_of(transfers.begin(), transfers.end(), [](const Transfer& t) { return absl::IsUnavailable(t.status); }));
    pair_->StartTarget();
  }
}

TEST_P(LaneConformance, WhatIsCancelledEndsAndItsMemoryRests) {
  if (const std::string why = pair_->NoBreaking(); !why.empty()) GTEST_SKIP() << why;
  std::vector<std::vector<char>> memory;
  std::vector<Transfer> transfers = MuchToDo(TransferKind::kRead, &memory);
  std::atomic<bool> cancel{false};
  std::thread canceller([&, before = grants().asked()] {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (grants().asked() == before && absl::Now() < deadline) std::this_thread::yield();
    cancel.store(true);
  });
  lane_->Run(absl::MakeSpan(transfers), {.timeout = absl::Seconds(60), .cancelled = [&] { return cancel.load(); }});
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(transfers.back().status));
  EXPECT_EQ(Quarantine::bytes(), 0u) << "what a device may still write is counted until Run is over";
  for (std::vector<char>& one : memory) std::fill(one.begin(), one.end(), 'z');
  const absl::Time deadline = absl::Now() + absl::Milliseconds(200);
  while (absl::Now() < deadline) {
    for (const std::vector<char>& one : memory) ASSERT_EQ(std::count(one.begin(), one.end(), 'z'), static_cast<ptrdiff_t>(one.size()));
  }
}

TEST_P(LaneConformance, ThreadsDoNotMixTheirBytes) {
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < kThreads; ++t) {
    const std::vector<char> block(static_cast<size_t>(1'000'000 + 100 * t), static_cast<char>('a' + t));
    const uint64_t grant = grants().Add(token_, block);
    threads.emplace_back([this, grant, block, &wrong] {
      for (int i = 0; i < 30; ++i) {
        std::vector<char> out(block.size());
        if (!Read(grant, ByteRuns::Whole(block.size()), &out).ok() || out != block) wrong.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_P(LaneConformance, ManyConnectionsOfShortLivesLeaveNothing) {
  const uint64_t grant = grants().Add(token_, Random(100));
  for (int i = 0; i < pair_->short_lives(); ++i) {
    std::vector<char> out(100);
    const auto lane = pair_->NewLane(token_);
    ASSERT_TRUE(RunOne(lane.get(), {.grant = grant, .runs = ByteRuns::Whole(100), .memory = absl::MakeSpan(out)}).ok()) << i;
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LaneConformance);

}  // namespace penstock
