// Leases that nodes elsewhere have on this node's names, and those that this node has on theirs.
#include "server/remote/lease_recall.h"

#include <gmock/gmock.h>

#include <future>

#include "server/remote/held_leases.h"
#include "tests/unit/server/store/store_fixture.h"
#include "transport/monotonic.h"

namespace penstock::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(20);

class LeaseRecallTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    recall_.emplace(store_.get());
    writer_ = NewSession();
  }
  void Put(const std::string& name, char fill = 'x') { StoreTest::Put(*writer_, Spec(name, 8), fill).value(); }
  // As Peer.Locate does it; false: none was granted.
  bool Lease(const LaneToken& holder, const std::string& name) {
    const bool may = recall_->Grants(holder, name, MonotonicNow());
    return may && store_->Hold(name, 0, LeaseRecall::kLease)->lease > absl::ZeroDuration();
  }
  // On another thread, for it may wait.
  std::future<absl::Duration> Delete(const std::string& name) {
    return std::async(std::launch::async, [this, name] {
      const absl::Time began = MonotonicNow();
      recall_->Change(name, [&](LeaseRule rule) { return store_->Delete(name, 0, rule); }).value();
      return MonotonicNow() - began;
    });
  }
  bool Exists(const std::string& name) { return store_->Stat(name, 0).ok(); }

  static constexpr LaneToken kOne{1}, kTwo{2};
  std::optional<LeaseRecall> recall_;
  std::shared_ptr<Session> writer_;
};

TEST_F(LeaseRecallTest, AChangeWaitsForTheWordOfEveryHolder) {
  Put("x");
  Put("other");
  ASSERT_TRUE(Lease(kOne, "x") && Lease(kTwo, "x") && Lease(kOne, "other"));
  std::future<absl::Duration> deleted = Delete("x");
  const LeaseRecall::Recalls one = recall_->Await(kOne, 0, kPatience);
  const LeaseRecall::Recalls two = recall_->Await(kTwo, 0, kPatience);
  EXPECT_THAT(one.names, ElementsAre("x"));
  EXPECT_THAT(two.names, ElementsAre("x"));
  EXPECT_THAT(recall_->Await(kOne, one.last, absl::ZeroDuration()).names, IsEmpty());
  EXPECT_TRUE(Exists("x")) << "one of the two has not answered";
  recall_->Await(kTwo, two.last, absl::ZeroDuration());
  EXPECT_LT(deleted.get(), LeaseRecall::kLease);
  EXPECT_FALSE(Exists("x"));
}

TEST_F(LeaseRecallTest, WhatIsNotLeasedChangesAtOnce) {
  Put("x");
  ASSERT_TRUE(Lease(kOne, "x"));
  Put("y");
  EXPECT_LT(Delete("y").get(), LeaseRecall::kLease / 2);
  EXPECT_THAT(recall_->Await(kOne, 0, absl::ZeroDuration()).names, IsEmpty());
}

TEST_F(LeaseRecallTest, AHolderThatDoesNotAnswerIsWaitedForUntilItsLeaseIsOver) {
  Put("x");
  const absl::Time before = MonotonicNow();
  ASSERT_TRUE(Lease(kOne, "x"));
  Delete("x").get();
  EXPECT_GE(MonotonicNow() - before, LeaseRecall::kLease);
  EXPECT_LT(MonotonicNow() - before, LeaseRecall::kLease + absl::Seconds(10));
}

TEST_F(LeaseRecallTest, ARecallIsToldAgainUntilItIsAnswered) {
  Put("x");
  ASSERT_TRUE(Lease(kOne, "x"));
  std::future<absl::Duration> deleted = Delete("x");
  EXPECT_THAT(recall_->Await(kOne, 0, kPatience).names, ElementsAre("x"));
  const LeaseRecall::Recalls again = recall_->Await(kOne, 0, kPatience);  // the first answer was lost
  EXPECT_THAT(again.names, ElementsAre("x"));
  recall_->Await(kOne, again.last, absl::ZeroDuration());
  EXPECT_LT(deleted.get(), LeaseRecall::kLease);
}

TEST_F(LeaseRecallTest, NoLeaseIsGivenWhileTheNameIsChanging) {
  Put("x");
  ASSERT_TRUE(Lease(kOne, "x"));
  std::future<absl::Duration> deleted = Delete("x");
  const LeaseRecall::Recalls recalls = recall_->Await(kOne, 0, kPatience);
  EXPECT_FALSE(Lease(kOne, "x") || Lease(kTwo, "x"));
  recall_->Await(kOne, recalls.last, absl::ZeroDuration());
  deleted.get();
  Put("x");
  EXPECT_TRUE(Lease(kTwo, "x"));
}

TEST_F(LeaseRecallTest, ALateAnswerEndsNoNewerLease) {
  Put("x");
  ASSERT_TRUE(Lease(kOne, "x"));
  std::future<absl::Duration> deleted = Delete("x");
  const LeaseRecall::Recalls first = recall_->Await(kOne, 0, kPatience);
  deleted.get();  // the answer did not come in time
  Put("x");
  ASSERT_TRUE(Lease(kOne, "x"));
  EXPECT_THAT(recall_->Await(kOne, first.last, absl::ZeroDuration()).names, IsEmpty());
  deleted = Delete("x");
  EXPECT_THAT(recall_->Await(kOne, first.last, kPatience).names, ElementsAre("x"));
  EXPECT_TRUE(Exists("x"));
}

TEST_F(LeaseRecallTest, ADeletedPrefixCallsAllItsLeasesBackTogether) {
  for (int i = 0; i < 1500; ++i) Put("p/" + std::to_string(i));
  Put("q");
  ASSERT_TRUE(Lease(kOne, "p/7") && Lease(kOne, "p/8") && Lease(kOne, "q"));
  std::future<uint64_t> count = std::async(std::launch::async, [this] { return recall_->DeletePrefix("p/").value(); });
  const LeaseRecall::Recalls recalls = recall_->Await(kOne, 0, kPatience);
  EXPECT_THAT(recalls.names, UnorderedElementsAre("p/7", "p/8"));
  EXPECT_TRUE(Exists("p/7") && Exists("p/8"));
  EXPECT_FALSE(Exists("p/1499"));
  recall_->Await(kOne, recalls.last, absl::ZeroDuration());
  EXPECT_EQ(count.get(), 1500u);
  EXPECT_FALSE(Exists("p/7"));
  EXPECT_TRUE(Exists("q"));
}

TEST_F(LeaseRecallTest, TheEndOfASessionEndsNoLease) {
  Put("x");
  const absl::Time before = MonotonicNow();
  ASSERT_TRUE(Lease(kOne, "x"));
  recall_->Forget(kOne);  // its clients may still be served
  Delete("x").get();
  EXPECT_GE(MonotonicNow() - before, LeaseRecall::kLease);
}

TEST_F(LeaseRecallTest, WhatWaitsForRecallsEndsWithTheNode) {
  std::future<LeaseRecall::Recalls> waiting = std::async(std::launch::async, [this] { return recall_->Await(kOne, 0, kPatience); });
  recall_->Stop();
  EXPECT_THAT(waiting.get().names, IsEmpty());
}

TEST_F(LeaseRecallTest, TheStoreChangesNoLeasedNameBeforeItIsTold) {
  Put("x");
  ASSERT_TRUE(Lease(kOne, "x"));
  const Placed draft = Reserve(*writer_, Spec("x", 8)).value();
  const absl::Status refused = store_->Publish(*writer_, draft.record, draft.record_seq).status();
  EXPECT_TRUE(IsLeased(refused) && absl::IsUnavailable(refused)) << refused;
  EXPECT_TRUE(IsLeased(store_->Delete("x", 0).status()));
  EXPECT_EQ(store_->Publish(*writer_, draft.record, draft.record_seq, LeaseRule::kRecalled)->version_number, 2u) << "the draft stayed";
}

TEST_F(LeaseRecallTest, AfterARestartAllNamesWaitForTheLeasesOfThePast) {
  Put("x");
  Put("y");
  ASSERT_TRUE(Lease(kOne, "x"));
  const absl::Time before = MonotonicNow();
  recall_.reset();
  KillAndRestart();
  recall_.emplace(store_.get());
  writer_ = NewSession();
  EXPECT_TRUE(IsLeased(store_->Delete("x", 0).status()));
  Put("new");  // nobody serves it
  Delete("x").get();
  EXPECT_GE(MonotonicNow() - before, LeaseRecall::kLease);
  EXPECT_FALSE(IsLeased(store_->Delete("y", 0).status()));
}

TEST_F(LeaseRecallTest, ALeaseLastsNoLongerThanTheTensor) {
  CreateSpec spec = Spec("x", 8);
  spec.ttl_ns = 300'000'000;
  StoreTest::Put(*writer_, spec).value();
  EXPECT_LE(store_->Hold("x", 0, LeaseRecall::kLease)->lease, absl::Milliseconds(300));
}

TEST_F(LeaseRecallTest, WhatIsServedElsewhereIsNotEvicted) {
  for (int i = 0; i < 40; ++i) {
    const std::string name = "c/" + std::to_string(i);
    CreateSpec spec = Spec(name, 1 << 20);
    spec.keep = false;
    StoreTest::Put(*writer_, spec).value();
  }
  ASSERT_TRUE(Lease(kOne, "c/0"));  // the oldest
  for (int i = 0; i < 30; ++i) StoreTest::Put(*writer_, Spec("k/" + std::to_string(i), 1 << 20)).value();
  EXPECT_TRUE(Exists("c/0"));
  EXPECT_FALSE(Exists("c/1"));
}

TEST_F(LeaseRecallTest, WhoNeedsTheRoomWaitsForTheLeases) {
  for (int i = 0; i < 60; ++i) {
    const std::string name = "c/" + std::to_string(i);
    CreateSpec spec = Spec(name, 1 << 20);
    spec.keep = false;
    if (!StoreTest::Put(*writer_, spec).ok()) break;
  }
  v1::ListResponse all;
  store_->List({}, 1 << 20, &all);
  for (const v1::TensorInfo& info : all.items()) ASSERT_TRUE(Lease(kOne, info.name()));
  const CreateSpec wanted = Spec("wanted", 20 << 20);
  absl::StatusOr<Placed> placed = store_->Reserve(*writer_, wanted);
  ASSERT_TRUE(placed.ok()) << placed.status();
  ASSERT_EQ(placed->kind, Placed::Kind::kWait) << "all of it is served elsewhere";
  const absl::Time end = MonotonicNow() + kPatience;
  while (placed.ok() && placed->kind == Placed::Kind::kWait && MonotonicNow() < end) {
    const uint64_t epoch = store_->change_epoch();
    store_->WaitForChange(epoch, store_->Maintain());  // as the node does
    placed = store_->Reserve(*writer_, wanted);
  }
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ(placed->kind, Placed::Kind::kPlaced);
}

TEST_F(LeaseRecallTest, LeasesThatAreOverAreForgotten) {
  Put("x");
  store_->Hold("x", 0, absl::Milliseconds(5)).value();
  EXPECT_TRUE(store_->may_be_leased());
  const absl::Time end = MonotonicNow() + kPatience;
  while (store_->may_be_leased() && MonotonicNow() < end) store_->Maintain();
  EXPECT_FALSE(store_->may_be_leased());
}

class HeldLeasesTest : public StoreTest {
 protected:
  Published Copy(const std::string& name) {
    CreateSpec spec = Spec(name, 8);
    spec.fetched = true;
    spec.version = 5;
    return Put(*session_, spec).value();
  }
  bool Served(const std::string& name) { return store_->Lookup(name, 0)->leased; }
  void SetUp() override {
    StoreTest::SetUp();
    session_ = NewSession();
    held_.emplace(store_.get());
  }

  std::shared_ptr<Session> session_;
  std::optional<HeldLeases> held_;
};

TEST_F(HeldLeasesTest, ACopyIsServedUntilTheLeaseEndsOrIsCalledBack) {
  const Published copy = Copy("x");
  EXPECT_FALSE(Served("x"));
  held_->Take("x", copy, MonotonicNow() - absl::Seconds(1), absl::Seconds(1));
  EXPECT_FALSE(Served("x")) << "counted from when it was asked for";
  held_->Take("x", copy, MonotonicNow(), absl::Seconds(60));
  EXPECT_TRUE(Served("x"));
  held_->Obey({"x", "unknown"});
  EXPECT_FALSE(Served("x"));
}

TEST_F(HeldLeasesTest, ARecallThatOvertookItsLeaseCounts) {
  const Published copy = Copy("x");
  const absl::Time asked = MonotonicNow();
  held_->Obey({"x"});
  held_->Take("x", copy, asked, absl::Seconds(1));
  EXPECT_FALSE(Served("x"));
  held_->Take("x", copy, MonotonicNow(), absl::Seconds(1));
  EXPECT_TRUE(Served("x")) << "asked for after the recall";
}

TEST_F(HeldLeasesTest, AllEndWhenTheHomeIsNotHeard) {
  const Published x = Copy("x"), y = Copy("y");
  const absl::Time asked = MonotonicNow();
  held_->Take("x", x, asked, absl::Seconds(60));
  held_->EndAll();
  held_->Take("y", y, asked, absl::Seconds(60));
  EXPECT_FALSE(Served("x") || Served("y"));
  held_->Take("x", x, MonotonicNow(), absl::Seconds(60));
  EXPECT_TRUE(Served("x"));
}

TEST_F(HeldLeasesTest, ALeaseIsOfTheCopyThatItWasGrantedFor) {
  const Published old_copy = Copy("x");
  Copy("x");
  held_->Take("x", old_copy, MonotonicNow(), absl::Seconds(1));
  EXPECT_FALSE(Served("x"));
}

}  // namespace
}  // namespace penstock::server
