// The spill directory under a store: out when memory is full, back when asked for, over restarts, with bad files.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/unit/server/store/store_fixture.h"
#include "transport/monotonic.h"

namespace penstock::server {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class StoreSpillTest : public StoreTest {
 protected:
  static constexpr uint64_t kMiB = 1 << 20;

  void SetUp() override {
    char path[] = "/tmp/penstock-store-spill-XXXXXX";
    spill_dir_ = mkdtemp(path);
    StoreTest::SetUp();
    session_ = NewSession();
  }
  void TearDown() override {
    store_.reset();
    fs::remove_all(spill_dir_);
  }
  // As a node that is stopped and started: the memory is gone.
  void StopAndStart() {
    session_.reset();
    store_.reset();
    memory_ = WardenMemory();
    Start();
    session_ = NewSession();
  }
  void Kill() {
    KillAndRestart();
    session_ = store_->FindSession(session_->id);
  }
  static std::string Name(int i) { return "t/" + std::to_string(i); }
  absl::StatusOr<Published> PutOne(int i, uint64_t nbytes = kMiB, bool in_arena = true) {
    const std::string name = Name(i);
    CreateSpec spec = Spec(name, nbytes);
    spec.in_arena = in_arena;
    return Put(*session_, spec, static_cast<char>('a' + i % 26));
  }
  void PutMany(int count) {
    for (int i = 0; i < count; ++i) ASSERT_TRUE(PutOne(i).ok()) << i;
  }
  absl::Status Check(int i, uint64_t nbytes = kMiB) {
    const auto held = store_->WhileReturning([&] { return store_->Hold(Name(i), 0); });
    if (!held.ok()) return held.status();
    EXPECT_EQ(held->info.nbytes(), nbytes);
    const std::string want(nbytes, static_cast<char>('a' + i % 26));
    EXPECT_EQ(std::memcmp(held->data, want.data(), nbytes), 0) << i;
    return absl::OkStatus();
  }
  int SpilledOne() {
    for (int i = 0;; ++i) {
      const auto info = store_->Stat(Name(i), 0);
      if (!info.ok()) return -1;
      if (info->spilled()) return i;
    }
  }
  size_t Files(std::string_view ending = ".tensor") const {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(spill_dir_)) count += entry.path().extension() == ending;
    return count;
  }
  void AwaitFiles(size_t count) {
    const absl::Time end = MonotonicNow() + absl::Seconds(10);
    while (Files() != count && MonotonicNow() < end) store_->WaitForChange(store_->change_epoch(), absl::Milliseconds(10));
    EXPECT_EQ(Files(), count);
  }

  std::shared_ptr<Session> session_;
};

TEST_F(StoreSpillTest, ThreeTimesTheMemoryIsPutAndReadBack) {
  PutMany(192);
  EXPECT_GT(Df().spilled(), 120u);
  EXPECT_EQ(Df().tensors(), 192u);
  EXPECT_EQ(Df().tensor_bytes(), 192 * kMiB);
  for (int i = 0; i < 192; ++i) ASSERT_TRUE(Check(i).ok()) << i;
  EXPECT_GT(Df().spill_ins(), 120u);
  ASSERT_EQ(DeletePrefix("").value(), 192u);
  AwaitFiles(0);
  const v1::DfResponse df = Df();
  EXPECT_EQ(df.spilled() + df.spilled_bytes() + df.tensor_bytes() + df.block_bytes(), 0u) << df.ShortDebugString();
}

TEST_F(StoreSpillTest, ExtentsAreSpilledToo) {
  store_->OnSegmentNotice([this](const Store::SegmentNotice& notice) {  // as clients do
    for (const auto& session : notice.sessions) {
      if (notice.drop) store_->SegmentUnmapped(session->id, notice.segment);
    }
  });
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(PutOne(i, 8 * kMiB, /*in_arena=*/false).ok()) << i;
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(Check(i, 8 * kMiB).ok()) << i;
}

TEST_F(StoreSpillTest, SmallOnesAndPinnedOnesStay) {
  CreateSpec small = Spec("small", 1000);
  ASSERT_TRUE(Put(*session_, small).ok());
  const Published pinned = PutOne(0).value();
  Pin(*session_, 3, pinned);
  for (int i = 1; i < 100; ++i) ASSERT_TRUE(PutOne(i).ok()) << i;
  EXPECT_FALSE(store_->Stat("small", 0)->spilled());
  EXPECT_FALSE(store_->Stat(Name(0), 0)->spilled());
  EXPECT_TRUE(store_->Stat(Name(1), 0)->spilled());
}

TEST_F(StoreSpillTest, OverwriteDeleteAndExpiryRemoveTheFile) {
  const std::string name = "ttl";
  CreateSpec spec = Spec(name, kMiB);
  spec.ttl_ns = uint64_t{1'000'000'000};
  ASSERT_TRUE(Put(*session_, spec).ok());
  PutMany(100);
  const size_t files = Df().spilled();
  ASSERT_TRUE(store_->Stat(name, 0)->spilled());
  EXPECT_EQ(Files(), files);
  ASSERT_TRUE(store_->Stat(Name(0), 0)->spilled());
  ASSERT_TRUE(store_->Stat(Name(1), 0)->spilled());
  EXPECT_EQ(PutOne(0)->version_number, 2u);
  ASSERT_TRUE(store_->Delete(Name(1), 0).ok());
  const absl::Time end = MonotonicNow() + absl::Seconds(10);
  while (store_->Stat(name, 0).ok() && MonotonicNow() < end) {
    const uint64_t epoch = store_->change_epoch();
    store_->WaitForChange(epoch, store_->Maintain());
  }
  EXPECT_TRUE(absl::IsNotFound(store_->Stat(name, 0).status()));
  AwaitFiles(Df().spilled());
  EXPECT_TRUE(Check(0).ok());
}

TEST_F(StoreSpillTest, ConditionsAndRepeatedLookupsKnowASpilledTensor) {
  PutMany(100);
  const int i = SpilledOne();
  ASSERT_GE(i, 0);
  const std::string name = Name(i);
  CreateSpec absent = Spec(name, 8);
  absent.if_version = 0;
  EXPECT_TRUE(absl::IsAlreadyExists(Put(*session_, absent).status()));
  EXPECT_TRUE(store_->Lookup(name, 0)->spilled);
  const absl::Status first = store_->LookupResident(name, 0).status();
  const absl::Status second = store_->LookupResident(name, 0).status();
  EXPECT_TRUE(IsReturning(first)) << first;
  EXPECT_TRUE(second.ok() || IsReturning(second)) << second;
  const auto back = store_->WhileReturning([&] { return store_->LookupResident(name, 1); });
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_FALSE(back->spilled);
  EXPECT_EQ(Df().spill_ins(), 1u);  // once for both
}

TEST_F(StoreSpillTest, TheNextProcessServesThem) {
  PutMany(150);
  const size_t spilled = Df().spilled();
  Kill();
  EXPECT_GE(Df().spilled(), spilled);
  EXPECT_EQ(Df().tensors(), 150u);
  for (int i = 0; i < 150; ++i) ASSERT_TRUE(Check(i).ok()) << i;
  EXPECT_EQ(PutOne(0)->version_number, 2u);
}

TEST_F(StoreSpillTest, AfterAStopWhatWasSpilledIsServedAgain) {
  CreateSpec spec = Spec("meta", kMiB);
  const std::string metadata = layout::EncodeMetadata({{"key", "value"}});
  spec.metadata = metadata;
  ASSERT_TRUE(Put(*session_, spec, 'm').ok());
  ASSERT_TRUE(Put(*session_, spec, 'm').ok());
  PutMany(150);
  ASSERT_TRUE(store_->Stat("meta", 0)->spilled());
  while (store_->MakesRoom()) store_->WaitForChange(store_->change_epoch(), absl::Milliseconds(5));
  std::vector<int> spilled;
  for (int i = 0; i < 150; ++i) {
    if (store_->Stat(Name(i), 0)->spilled()) spilled.push_back(i);
  }
  ASSERT_TRUE(store_->Delete(Name(spilled[0]), 0).ok());
  StopAndStart();
  EXPECT_EQ(Df().tensors(), spilled.size());  // less the deleted one, and "meta"
  EXPECT_TRUE(absl::IsNotFound(store_->Stat(Name(spilled[0]), 0).status()));
  for (size_t k = 1; k < spilled.size(); ++k) ASSERT_TRUE(Check(spilled[k]).ok()) << spilled[k];
  const v1::TensorInfo meta = store_->Stat("meta", 0).value();
  EXPECT_EQ(meta.metadata().at("key"), "value");
  EXPECT_EQ(meta.version().number(), 2u);
  EXPECT_EQ(Put(*session_, spec)->version_number, 3u);
}

TEST_F(StoreSpillTest, ABadFileIsDataLossByNameAndNothingElseSuffers) {
  PutMany(150);
  const int bad = SpilledOne();
  ASSERT_GE(bad, 0);
  for (const auto& entry : fs::directory_iterator(spill_dir_)) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    std::string head(4096, '\0');
    file.read(head.data(), 4096);
    if (head.find(Name(bad) + "\x12") == std::string::npos) continue;
    file.seekp(100'000);
    file.put('?');
  }
  const absl::Status lost = Check(bad);
  EXPECT_TRUE(absl::IsDataLoss(lost)) << lost;
  EXPECT_THAT(std::string(lost.message()), HasSubstr("'" + Name(bad) + "'"));
  EXPECT_THAT(std::string(lost.message()), HasSubstr(".tensor"));
  EXPECT_TRUE(absl::IsDataLoss(Check(bad)));
  for (int i = 0; i < 150; ++i) {
    if (i != bad) {
      ASSERT_TRUE(Check(i).ok()) << i;
    }
  }
  EXPECT_EQ(Files(".bad"), 1u);
  EXPECT_EQ(PutOne(bad)->version_number, 2u);
  EXPECT_TRUE(Check(bad).ok());
}

TEST_F(StoreSpillTest, TheLimitHoldsAndTheErrorTellsWhoHoldsWhat) {
  store_.reset();
  spill_limit_ = "20MiB";
  memory_ = WardenMemory();
  Start();
  session_ = NewSession();
  absl::Status status;
  int stored = 0;
  while (status.ok()) {
    status = PutOne(stored).status();
    stored += status.ok();
  }
  ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("spill directory, which may take 20MiB"));
  EXPECT_LE(Df().spilled_bytes(), 20 * kMiB);
  EXPECT_GE(stored, 70);
  for (int i = 0; i < stored; ++i) ASSERT_TRUE(Check(i).ok()) << i << ": a full directory still gives back what it has";
  const Published pinned = store_->WhileReturning([&] { return store_->LookupResident(Name(0), 0); }).value();
  Pin(*session_, 0, pinned);
  absl::Status full;
  for (int more = 0; full.ok() && more < 100; ++more) full = PutOne(stored + more).status();
  EXPECT_THAT(std::string(full.message()), HasSubstr("(pid 1): 1MiB pinned, 0B in extents"));
}

TEST_F(StoreSpillTest, WhatIsUsedStaysInMemory) {
  PutMany(20);
  for (int i = 20; i < 150; ++i) {
    for (int hot = 0; hot < 4; ++hot) (void)store_->LookupResident(Name(hot), 0);
    ASSERT_TRUE(PutOne(i).ok());
  }
  for (int hot = 0; hot < 4; ++hot) EXPECT_FALSE(store_->Stat(Name(hot), 0)->spilled()) << hot;
}

TEST_F(StoreSpillTest, ManyThreadsReadAndWriteMoreThanThereIs) {
  PutMany(120);
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 60; ++round) {
        const int i = (t * 37 + round * 11) % 120;
        if (round % 5 == t) {
          failed += !PutOne(i).ok();
        } else if (const absl::Status s = Check(i); !s.ok()) {
          ADD_FAILURE() << s;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  Kill();
  for (int i = 0; i < 120; ++i) ASSERT_TRUE(Check(i).ok()) << i;
}

}  // namespace
}  // namespace penstock::server
