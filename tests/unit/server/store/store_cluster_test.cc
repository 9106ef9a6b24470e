// Records of the cluster's directory: prepared, live, aside, dropped; what clients see of them, and what recovery makes of them.
#include <gmock/gmock.h>
#include <penstock/client.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "tests/unit/server/store/directory_fixture.h"
#include "tests/unit/server/store/serving_fixture.h"

namespace penstock::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr directory::OpId kOne{77, 1};
constexpr directory::OpId kTwo{77, 2};

class DirectoryClientTest : public DirectoryTest<ServingTest> {};

// ---- prepared ----

TEST_F(DirectoryStoreTest, PreparedRecordIsInvisibleAndOutlivesItsSessionAndTheProcess) {
  auto session = NewSession();
  Prepare(*session, Spec("a", 5000), kOne, 'p', {.prepared_in = 9});
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  EXPECT_EQ(Df().tensors(), 0);
  EXPECT_EQ(Df().drafts(), 1);
  EXPECT_EQ(Df().draft_bytes(), 5000);
  store_->EndSession(session->id);
  for (int restart = 0; restart < 3; ++restart) {
    const auto record = Records().Find("a", kOne);
    ASSERT_TRUE(record.has_value());
    EXPECT_EQ(record->state, State::kPrepared);
    EXPECT_EQ(record->version, Version{});
    EXPECT_EQ(record->prepared_in, 9u);
    EXPECT_EQ(record->nbytes, 5000u);
    EXPECT_EQ(BytesOf("a", kOne), std::string(5000, 'p'));
    EXPECT_EQ(Df().drafts(), 1);
    KillAndRestart();
  }
  Records().Drop("a", kOne);
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().draft_bytes(), 0);
  EXPECT_EQ(Df().block_bytes(), 0);
}

TEST_F(DirectoryStoreTest, OperationIsPreparedOnce) {
  auto session = NewSession();
  Prepare(*session, Spec("a", 10), kOne);
  CreateSpec spec = Spec("a", 10);
  spec.judged_later = true;
  const Placed again = Reserve(*session, spec).value();
  ASSERT_TRUE(store_->TakeDraft(*session, again.record, again.record_seq).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Prepare(again.record, {.op = kOne, .prepared_in = 1})));
  store_->DropTaken(again.record);
  EXPECT_EQ(Df().drafts(), 1);
}

TEST_F(StoreTest, DraftOfANodeWithoutADirectoryIsNotPrepared) {
  auto session = NewSession();
  const Placed placed = Reserve(*session, Spec("a", 10)).value();
  ASSERT_TRUE(store_->TakeDraft(*session, placed.record, placed.record_seq).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Prepare(placed.record, {.op = {1, 1}, .prepared_in = 1})));
  store_->DropTaken(placed.record);
}

TEST_F(DirectoryStoreTest, RepeatedRequestsFindTheirOperation) {
  auto session = NewSession();
  auto other = NewSession();
  CreateSpec spec = Spec("a", 10);
  spec.request_id = 5;
  const Placed placed = Reserve(*session, spec).value();
  EXPECT_EQ(store_->OpOfDraft(*session, placed.record, placed.record_seq), std::nullopt);
  ASSERT_TRUE(store_->TakeDraft(*session, placed.record, placed.record_seq).ok());
  ASSERT_TRUE(store_->Prepare(placed.record, {.op = kOne, .prepared_in = 1}).ok());
  for (const State state : {State::kPrepared, State::kLive, State::kSuperseded}) {
    if (state != State::kPrepared) Set("a", kOne, state, {1, 1});
    EXPECT_EQ(store_->OpOfRequest("a", *session, 5), kOne);
    EXPECT_EQ(store_->OpOfRequest("a", *session, 6), std::nullopt);
    EXPECT_EQ(store_->OpOfRequest("b", *session, 5), std::nullopt);
    EXPECT_EQ(store_->OpOfRequest("a", *other, 5), std::nullopt);
    EXPECT_EQ(store_->OpOfDraft(*session, placed.record, placed.record_seq), kOne);
    EXPECT_EQ(store_->OpOfDraft(*other, placed.record, placed.record_seq), std::nullopt);
  }
  Records().Drop("a", kOne);
  EXPECT_EQ(store_->OpOfRequest("a", *session, 5), std::nullopt);
  EXPECT_EQ(store_->OpOfDraft(*session, placed.record, placed.record_seq), std::nullopt);
}

// ---- live ----

TEST_F(DirectoryStoreTest, LiveRecordIsServedWithTheVersionOfItsHome) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 5000);
  spec.version = 3;  // asked for; the home answers something else
  spec.if_version = 2;
  spec.keep = false;
  PutLive(*session, spec, kOne, {4, 17});
  const Published found = store_->Lookup("a", 0).value();
  EXPECT_EQ(found.version_term, 4u);
  EXPECT_EQ(found.version_number, 17u);
  EXPECT_EQ(found.record_seq % 2, 1u);
  EXPECT_EQ(store_->PublishedByOp("a", kOne)->record, found.record);
  EXPECT_NEAR(found.created_ns, absl::GetCurrentTimeNanos(), 60e9);
  EXPECT_EQ(Df().tensors(), 1);
  EXPECT_EQ(Df().tensor_bytes(), 5000);
  EXPECT_EQ(Df().cache_bytes(), 5000);
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().puts(), 1);
  KillAndRestart();
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 17u);
  EXPECT_EQ(store_->Lookup("a", 0)->created_ns, found.created_ns);
  EXPECT_EQ(StateOf("a", kOne), State::kLive);
}

TEST_F(DirectoryStoreTest, PutIsCountedOnceAndLoggedByItsHomeAlone) {
  auto session = NewSession();
  Prepare(*session, Spec("a", 10), kOne);
  Set("a", kOne, State::kUnconfirmed);
  EXPECT_THAT(TensorEvents(), IsEmpty());
  Set("a", kOne, State::kLive, {1, 1});
  Set("a", kOne, State::kLive, {1, 1});
  Set("a", kOne, State::kUnconfirmed, {1, 1});
  Set("a", kOne, State::kLive, {1, 1});
  EXPECT_THAT(TensorEvents(), IsEmpty());
  EXPECT_EQ(Df().puts(), 1);
  v1::TensorInfo told;
  told.set_name("a");
  told.mutable_version()->set_number(1);
  store_->LogNameEvent(v1::Event::PUT, 7, told, /*elsewhere=*/true);
  EXPECT_THAT(TensorEvents(), ElementsAre(Pair(v1::Event::PUT, "a")));
}

TEST_F(DirectoryStoreTest, NewerVersionReplacesTheOlderOne) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 100), kOne, {1, 1});
  const Published first = store_->Lookup("a", 0).value();
  Pin(*session, 0, first);
  PutLive(*session, Spec("a", 200), kTwo, {1, 2});
  EXPECT_FALSE(Holds("a", kOne));
  EXPECT_EQ(store_->Stat("a", 0)->nbytes(), 200);
  EXPECT_EQ(Df().retired(), 1);  // the pin
  EXPECT_EQ(Df().tensors(), 1);
  Unpin(*session, 0);
  EXPECT_EQ(Df().retired(), 0);
}

TEST_F(DirectoryStoreTest, TermCountsBeforeTheNumber) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 100), kOne, {1, 9});
  PutLive(*session, Spec("a", 200), kTwo, {2, 1});  // after a loss of history numbers begin anew
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1u);
  KillAndRestart();
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1u);
}

TEST_F(DirectoryStoreTest, OlderVersionThatIsLiveStaysAsideForEver) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 200), kTwo, {1, 2});
  PutLive(*session, Spec("a", 100), kOne, {1, 1});
  EXPECT_EQ(StateOf("a", kOne), State::kLive);
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 2u);
  EXPECT_EQ(BytesOf("a", kOne), std::string(100, 'x'));
  EXPECT_EQ(Df().withheld(), 1);
  Set("a", kTwo, State::kSuperseded, {1, 2});  // its successor is on its way: nobody must get the one before
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  KillAndRestart();
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  EXPECT_EQ(StateOf("a", kOne), State::kUnconfirmed);
  Records().Drop("a", kOne);
  Records().Drop("a", kTwo);
  EXPECT_EQ(Df().withheld() + Df().withheld_bytes() + Df().block_bytes(), 0);
}

TEST_F(DirectoryStoreTest, LiveRecordReplacesACopyAndNoCopyReplacesIt) {
  auto session = NewSession();
  CreateSpec copy = Spec("a", 50);
  copy.fetched = true;
  copy.version = 7;
  copy.version_term = 2;
  copy.created_ns = 1;
  Put(*session, copy).value();
  EXPECT_EQ(store_->Lookup("a", 0)->version_term, 2u);
  PutLive(*session, Spec("a", 100), kOne, {3, 8});
  EXPECT_FALSE(store_->Lookup("a", 0)->fetched);
  EXPECT_TRUE(absl::IsAborted(Put(*session, copy).status()));
  Set("a", kOne, State::kSuperseded, {3, 8});
  ASSERT_TRUE(Put(*session, copy).ok());  // of the next version, say
  EXPECT_TRUE(store_->Lookup("a", 0)->fetched);
  Set("a", kOne, State::kLive, {3, 8});
  EXPECT_FALSE(store_->Lookup("a", 0)->fetched);
  EXPECT_EQ(Df().tensors(), 1);
}

TEST_F(DirectoryStoreTest, NodeAloneChangesNothingOfIt) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 100), kOne, {1, 1});
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->Delete("a", 0).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*session, Spec("a", 10)).status()));
  CreateSpec later = Spec("a", 10);
  later.judged_later = true;
  EXPECT_TRUE(absl::IsFailedPrecondition(Put(*session, later).status()));
  EXPECT_EQ(DeletePrefix("").value(), 0u);
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1u);
  EXPECT_EQ(Df().drafts(), 0);
}

// ---- aside ----

TEST_F(DirectoryStoreTest, SupersededIsFoundByItsVersionOnlyAndComesBackAsItWas) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 100);
  spec.ttl_ns = uint64_t{3600} * 1'000'000'000;
  PutLive(*session, spec, kOne, {1, 5});
  const uint64_t expires = store_->Stat("a", 0)->expires_ns();
  EXPECT_GT(expires, static_cast<uint64_t>(absl::GetCurrentTimeNanos()));
  const Published live = store_->Lookup("a", 0).value();
  for (const State state : {State::kSuperseded, State::kUnconfirmed}) {
    Set("a", kOne, state, {1, 5});
    EXPECT_EQ(StateOf("a", kOne), state);
    EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
    EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 4).status()));
    EXPECT_EQ(store_->Lookup("a", 5)->record, live.record);
    EXPECT_EQ(store_->Lookup("a", 5)->record_seq, live.record_seq);  // views and pins of it go on
    EXPECT_EQ(store_->Stat("a", 5)->expires_ns(), expires);
    EXPECT_EQ(RecordAt(live.record)->expires_ns.load(), layout::kLeaseBase);
    EXPECT_TRUE(store_->Hold("a", 5).ok());
    v1::ListResponse list;
    store_->List({}, 1 << 20, &list);
    EXPECT_EQ(list.items_size(), 0);
    EXPECT_EQ(Df().tensors() + Df().tensor_bytes(), 0);
    EXPECT_EQ(Df().withheld(), 1);
    EXPECT_EQ(Df().withheld_bytes(), 100);
    KillAndRestart();
    EXPECT_EQ(StateOf("a", kOne), state);
    EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
    EXPECT_EQ(store_->Lookup("a", 5)->record, live.record);
    Set("a", kOne, State::kLive, {1, 5});
    EXPECT_EQ(store_->Lookup("a", 0)->record_seq, live.record_seq);
    EXPECT_EQ(RecordAt(live.record)->expires_ns.load(), expires);
    EXPECT_EQ(Df().withheld() + Df().withheld_bytes(), 0);
    EXPECT_EQ(Df().tensor_bytes(), 100);
  }
}

TEST_F(DirectoryStoreTest, QuarantinedAndPreparedAreNotServedByVersion) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 100), kOne, {1, 5});
  Set("a", kOne, State::kQuarantined, {1, 5});
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 5).status()));
  EXPECT_EQ(BytesOf("a", kOne), std::string(100, 'x'));
  Prepare(*session, Spec("b", 100), kTwo);
  Set("b", kTwo, State::kQuarantined, {});
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("b", 0).status()));
  EXPECT_EQ(Df().withheld(), 2);
  EXPECT_EQ(Df().drafts(), 0);
  KillAndRestart();
  EXPECT_EQ(StateOf("a", kOne), State::kQuarantined);
  EXPECT_EQ(StateOf("b", kTwo), State::kQuarantined);
  EXPECT_EQ(Df().withheld(), 2);
}

TEST_F(DirectoryStoreTest, PreparedThatIsUnconfirmedKeepsNoVersionUntilItGetsOne) {
  auto session = NewSession();
  Prepare(*session, Spec("a", 100), kOne);
  Set("a", kOne, State::kUnconfirmed, {});
  EXPECT_EQ(Records().Find("a", kOne)->version, Version{});
  Set("a", kOne, State::kSuperseded, {2, 3});
  KillAndRestart();
  EXPECT_EQ(Records().Find("a", kOne)->version, (Version{2, 3}));
  Set("a", kOne, State::kLive, {2, 3});
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 3u);
}

// ---- dropped ----

TEST_F(DirectoryStoreTest, DropIsADeleteOnlyOfWhatNothingNewerIsHereOf) {
  auto session = NewSession();
  PutLive(*session, Spec("deleted", 10), kOne, {1, 1});
  Set("deleted", kOne, State::kSuperseded, {1, 1});
  Records().Drop("deleted", kOne);
  Prepare(*session, Spec("never", 10), kOne);
  Records().Drop("never", kOne);
  PutLive(*session, Spec("old", 10), kOne, {1, 1});
  Set("old", kOne, State::kSuperseded, {1, 1});
  PutLive(*session, Spec("old", 10), kTwo, {1, 2});
  Records().Drop("old", kOne);
  EXPECT_EQ(Df().deletes(), 1);
  EXPECT_THAT(TensorEvents(), IsEmpty()) << "their homes tell them";
  EXPECT_EQ(Df().tensors(), 1);
  EXPECT_EQ(Df().withheld() + Df().drafts(), 0);
}

TEST_F(DirectoryStoreTest, HoldKeepsTheBytesInEveryState) {
  auto session = NewSession();
  for (const State state : {State::kPrepared, State::kLive, State::kSuperseded, State::kUnconfirmed, State::kQuarantined}) {
    Prepare(*session, Spec("a", 5000), kOne, 'h');
    absl::StatusOr<Store::HeldTensor> held = store_->HoldByOp("a", kOne);  // while it is prepared: it stays held
    ASSERT_TRUE(held.ok()) << held.status();
    if (state != State::kPrepared) Set("a", kOne, State::kLive, {1, 1});
    if (state != State::kPrepared && state != State::kLive) Set("a", kOne, state, {1, 1});
    EXPECT_EQ(BytesOf("a", kOne), std::string(5000, 'h'));
    Records().Drop("a", kOne);
    EXPECT_TRUE(absl::IsNotFound(store_->HoldByOp("a", kOne).status()));
    EXPECT_EQ(Df().retired(), 1) << static_cast<int>(state);
    for (int i = 0; i < 20; ++i) Put(*session, Spec("other" + std::to_string(i), 5000), 'o').value();
    EXPECT_EQ(std::string(held->data, 5000), std::string(5000, 'h'));
    held = absl::NotFoundError("");
    EXPECT_EQ(Df().retired(), 0);
    EXPECT_EQ(Df().pins(), 0);
    DeletePrefix("other").value();
  }
  EXPECT_EQ(Df().block_bytes(), 0);
}

// ---- what wants to go ----

struct Wishes {
  std::mutex mutex;
  std::vector<std::tuple<std::string, directory::OpId, Store::Wish>> list;
  size_t size() {
    std::lock_guard lock(mutex);
    return list.size();
  }
};

std::unique_ptr<Wishes> Listen(Store& store) {
  auto wishes = std::make_unique<Wishes>();
  store.OnWantsToGo([all = wishes.get()](const std::string& name, directory::OpId op, Store::Wish why) {
    std::lock_guard lock(all->mutex);
    all->list.emplace_back(name, op, why);
  });
  return wishes;
}

// Maintains the store until so many wishes have been told.
void Await(Store& store, Wishes& wishes, size_t count) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (wishes.size() < count && absl::Now() < deadline) {
    const uint64_t epoch = store.change_epoch();
    store.WaitForChange(epoch, std::min(store.Maintain(), absl::Milliseconds(20)));
  }
  ASSERT_GE(wishes.size(), count);
}

TEST_F(DirectoryStoreTest, EvictionAsksAndThePutWaitsForTheAnswer) {
  auto session = NewSession();
  const auto wishes = Listen(*store_);
  std::vector<std::string> names;
  for (int i = 0; i < 100; ++i) names.push_back("cache/" + std::to_string(i));
  uint64_t number = 0;
  absl::StatusOr<Placed> placed = absl::UnknownError("");
  for (const std::string& name : names) {
    CreateSpec spec = Spec(name, 1 << 20);
    spec.keep = false;
    placed = Reserve(*session, spec, absl::Milliseconds(200));
    if (!placed.ok()) break;
    const Store::TakenDraft taken = store_->TakeDraft(*session, placed->record, placed->record_seq).value();
    ASSERT_TRUE(store_->Prepare(taken.record, {.op = {1, ++number}, .prepared_in = 1}).ok());
    Set(name, {1, number}, State::kLive, {1, number});
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(placed.status())) << placed.status();  // it waits, and is not told that all is full
  ASSERT_EQ(wishes->size(), 1u);  // no more than what it needs
  EXPECT_EQ(wishes->list[0], std::tuple(names[0], OpId{1, 1}, Store::Wish::kEvict));
  EXPECT_TRUE(store_->Lookup(names[0], 0).ok());
  EXPECT_EQ(Df().evictions(), 0);
  Set(names[0], {1, 1}, State::kSuperseded, {1, 1});  // DirectoryNode::Evict
  Records().Drop(names[0], {1, 1});                   // the home's answer
  CreateSpec spec = Spec("next", 1 << 20);
  EXPECT_TRUE(Reserve(*session, spec).ok());
  EXPECT_EQ(Df().evictions(), 1);
  EXPECT_EQ(TensorEvents().back(), std::pair(v1::Event::EVICT, names[0]));
}

TEST_F(DirectoryStoreTest, ExpiredIsAskedForAgainUntilItIsGone) {
  auto session = NewSession();
  const auto wishes = Listen(*store_);
  CreateSpec spec = Spec("a", 100);
  spec.ttl_ns = 1;
  PutLive(*session, spec, kOne, {1, 1});
  Await(*store_, *wishes, 2);
  EXPECT_EQ(wishes->list[1], std::tuple("a", kOne, Store::Wish::kExpire));
  Set("a", kOne, State::kSuperseded, {1, 1});
  Set("a", kOne, State::kLive, {1, 1});  // it may not go yet
  Await(*store_, *wishes, 3);
  KillAndRestart();
  const auto later = Listen(*store_);
  Await(*store_, *later, 1);
  Records().Drop("a", kOne);
  EXPECT_EQ(TensorEvents().back(), std::pair(v1::Event::EXPIRE, std::string("a")));
  EXPECT_EQ(Df().expirations(), 1);
  EXPECT_EQ(store_->Maintain() > absl::Seconds(10), true);  // nothing is left to ask
}

TEST_F(DirectoryStoreTest, BoundIsAskedForWhenItsSessionEnds) {
  auto session = NewSession();
  auto writer = NewSession();
  const auto wishes = Listen(*store_);
  CreateSpec spec = Spec(".penstock/staged/1", 100);
  spec.purpose = layout::Purpose::kBound;
  PutLive(*session, spec, kOne, {1, 1});
  CreateSpec late = Spec(".penstock/staged/2", 100);
  late.purpose = layout::Purpose::kBound;
  Prepare(*session, late, kTwo);
  store_->EndSession(session->id);
  Await(*store_, *wishes, 1);
  EXPECT_EQ(wishes->list[0], std::tuple(std::string(spec.name), kOne, Store::Wish::kDelete));
  EXPECT_TRUE(store_->Lookup(spec.name, 0).ok());
  Set(late.name, kTwo, State::kLive, {1, 1});
  Await(*store_, *wishes, 2);
  EXPECT_EQ(std::get<0>(wishes->list[1]), late.name);
}

TEST_F(DirectoryStoreTest, BlocksOfADeadWriterAreAdoptedWhateverTheirState) {
  auto writer = NewSession();
  const std::vector<State> states = {State::kLive, State::kSuperseded, State::kUnconfirmed, State::kQuarantined};
  std::vector<std::string> names;
  for (size_t i = 0; i < states.size(); ++i) names.push_back("t/" + std::to_string(i));
  for (size_t i = 0; i < states.size(); ++i) {
    CreateSpec spec = Spec(names[i], 100000);
    spec.in_arena = false;
    PutLive(*writer, spec, {5, i + 1}, {1, i + 1}, static_cast<char>('a' + i));
    if (states[i] != State::kLive) Set(names[i], {5, i + 1}, states[i], {1, i + 1});
  }
  const v1::DfResponse before = Df();
  store_->EndSession(writer->id);
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (Df().extent_bytes() != 0 && absl::Now() < deadline) {
    const uint64_t epoch = store_->change_epoch();
    store_->Maintain();
    store_->WaitForChange(epoch, absl::Milliseconds(50));
  }
  EXPECT_EQ(Df().extent_bytes(), 0);
  for (int restart = 0; restart < 2; ++restart) {
    EXPECT_EQ(Df().withheld(), 3);
    EXPECT_EQ(Df().withheld_bytes(), before.withheld_bytes());
    EXPECT_EQ(Df().tensor_bytes(), before.tensor_bytes());
    for (size_t i = 0; i < states.size(); ++i) {
      EXPECT_EQ(StateOf(names[i], {5, i + 1}), states[i]);
      EXPECT_EQ(BytesOf(names[i], {5, i + 1}), std::string(100000, static_cast<char>('a' + i)));
    }
    EXPECT_TRUE(store_->Lookup(names[0], 0).ok());
    KillAndRestart();
  }
  for (size_t i = 0; i < states.size(); ++i) Records().Drop(names[i], {5, i + 1});
  EXPECT_EQ(Df().block_bytes(), 0);
}

// ---- what clients see, without a call ----

TEST_F(DirectoryClientTest, WhatIsPutAsideIsNotServedByNameAnyMoreAndViewsGoOn) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 5000), kOne, {1, 5}, 'v');
  const std::unique_ptr<Client> client = Client::Connect({.address = directory()}).value();
  const TensorView view = client->Get("a").value();
  ASSERT_TRUE(client->Get("a").ok());  // warm
  for (const State state : {State::kSuperseded, State::kUnconfirmed, State::kQuarantined}) {
    Set("a", kOne, state, {1, 5});
    EXPECT_TRUE(absl::IsNotFound(client->Get("a").status()));
    EXPECT_EQ(client->Get("a", GetOptions{.version = 5}).ok(), state != State::kQuarantined);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(view.data()), 5000), std::string(5000, 'v'));
    Set("a", kOne, State::kLive, {1, 5});
    const auto again = client->Get("a");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->version().number, 5u);
  }
  Set("a", kOne, State::kSuperseded, {1, 5});
  Records().Drop("a", kOne);
  EXPECT_EQ(Df().retired(), 1);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(view.data()), 5000), std::string(5000, 'v'));
}

// The lease in the record is what stops a reader whose index is behind; the index is only a hint.
TEST_F(DirectoryClientTest, WhoFindsItInAnIndexThatIsBehindAsksTheNode) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 5000), kOne, {1, 5});
  const std::unique_ptr<Client> client = Client::Connect({.address = directory()}).value();
  ASSERT_TRUE(client->Get("a").ok());
  const auto asked = [&] {
    v1::SessionsResponse sessions;
    store_->ListSessions(&sessions);
    uint64_t requests = 0;
    for (const v1::SessionInfo& one : sessions.sessions()) requests += one.requests();
    return requests;
  };
  const uint64_t before = asked();
  ASSERT_TRUE(client->Get("a").ok());
  EXPECT_EQ(asked(), before);
  auto* index = reinterpret_cast<layout::IndexHeader*>(memory_.segments.at(store_->header()->index_segment).mapping.data());
  std::vector<uint64_t> entries;
  for (uint64_t i = 0; i <= index->mask; ++i) entries.push_back(layout::IndexEntries(index)[i]);
  Set("a", kOne, State::kSuperseded, {1, 5});
  for (uint64_t i = 0; i <= index->mask; ++i) layout::IndexEntries(index)[i] = entries[i];
  (void)client->Get("a");  // the node reads the same index here, so its answer says nothing
  EXPECT_EQ(asked(), before + 1);
}

// Zero-call reads beside a home's work: no get that begins after a version was superseded returns it, and what is got is whole.
TEST_F(DirectoryClientTest, NoGetReturnsWhatWasSupersededBeforeItBegan) {
  constexpr uint64_t kVersions = 3000;
  constexpr uint64_t kWords = 500;
  auto session = NewSession();
  std::atomic<uint64_t> gone{0};
  std::atomic<uint64_t> served{0};
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      const std::unique_ptr<Client> client = Client::Connect({.address = directory()}).value();
      while (!done) {
        const uint64_t before = gone;
        const absl::StatusOr<TensorView> view = client->Get("a");
        if (!view.ok()) continue;
        ++served;
        wrong += view->version().number <= before;
        const auto* words = reinterpret_cast<const uint64_t*>(view->data());
        for (uint64_t word = 0; word < kWords; ++word) wrong += words[word] != view->version().number;
      }
    });
  }
  const CreateSpec spec{.name = "a", .dtype = DType::kU64, .shape = Shape({kWords}), .nbytes = 8 * kWords, .in_arena = true,
                        .judged_later = true};
  for (uint64_t number = 1; number <= kVersions || served < 100; ++number) {
    const Placed placed = Reserve(*session, spec).value();
    std::fill_n(reinterpret_cast<uint64_t*>(placed.block.address), kWords, number);
    ASSERT_TRUE(store_->TakeDraft(*session, placed.record, placed.record_seq).ok());
    ASSERT_TRUE(store_->Prepare(placed.record, {.op = {1, number}, .prepared_in = 1}).ok());
    if (number > 1) {
      Set("a", {1, number - 1}, State::kSuperseded, {1, number - 1});
      gone = number - 1;
    }
    Set("a", {1, number}, State::kLive, {1, number});
    Records().Drop("a", {1, number - 1});
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(Df().tensors(), 1);
  EXPECT_EQ(Df().withheld() + Df().drafts(), 0);
}

// ---- restarts ----

TEST_F(DirectoryStoreTest, TwinThatAdoptionLeftIsRetired) {
  auto session = NewSession();
  PutLive(*session, Spec("a", 100), kOne, {1, 1});
  PutLive(*session, Spec("b", 100), kTwo, {1, 1});
  const layout::RecordRef a = store_->Lookup("a", 0)->record;
  const layout::RecordRef b = store_->Lookup("b", 0)->record;
  // As if "b" were the copy of "a" that adoption had just made visible.
  std::memcpy(const_cast<char*>(layout::RecordName(RecordAt(b))), "a", 1);
  RecordAt(b)->name_hash = RecordAt(a)->name_hash;
  layout::DirectoryPartOf(RecordAt(b))->op_count = kOne.count;
  KillAndRestart();
  EXPECT_EQ(Df().tensors(), 1);
  EXPECT_EQ(Df().retired(), 0);
  EXPECT_EQ(Df().tensor_bytes(), 100);
  EXPECT_EQ(BytesOf("a", kOne), std::string(100, 'x'));
  Records().Drop("a", kOne);
  EXPECT_EQ(Df().block_bytes(), 0);
}

// What is in the index, by rules that know nothing of books and restarts.
struct Model {
  using State = directory::RecordState;
  struct Entry {
    State state = State::kPrepared;
    directory::Version version;
    uint64_t nbytes = 0;
  };
  using Key = std::pair<std::string, directory::OpId>;
  std::map<Key, Entry> records;
  std::map<std::string, Key> index;

  bool IsNewest(const Key& key) const {
    return std::none_of(records.begin(), records.end(), [&](const auto& other) {
      const bool counts = other.second.state != State::kPrepared && other.second.state != State::kQuarantined;
      return other.first.first == key.first && counts && other.second.version > records.at(key).version;
    });
  }
  bool InIndex(const Key& key) const {
    const auto at = index.find(key.first);
    return at != index.end() && at->second == key;
  }
  void Leave(const Key& key) {
    if (InIndex(key)) index.erase(key.first);
  }
  void Enter(const Key& key) {
    if (InIndex(key) || !IsNewest(key)) return;
    if (const auto at = index.find(key.first); at != index.end()) records.erase(at->second);
    index[key.first] = key;
  }
  void Restart() {
    index.clear();
    for (auto& [key, entry] : records) {
      if (entry.state == State::kLive) Enter(key);
    }
    for (auto& [key, entry] : records) {
      if (entry.state == State::kLive && !InIndex(key)) entry.state = State::kUnconfirmed;
    }
  }
};

TEST_F(DirectoryStoreTest, RandomHistoryIsTheSameAfterEachRestart) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Model model;
  uint64_t count = 0;
  auto session = NewSession();
  const auto check = [&] {
    uint64_t drafts = 0, withheld = 0, bytes = 0;
    for (const auto& [key, entry] : model.records) {
      const auto found = Records().Find(key.first, key.second);
      ASSERT_TRUE(found.has_value()) << key.first << " " << key.second.count;
      EXPECT_EQ(found->state, entry.state) << key.first << " " << key.second.count;
      EXPECT_EQ(found->version, entry.version);
      EXPECT_EQ(found->nbytes, entry.nbytes);
      if (model.InIndex(key)) {
        bytes += entry.nbytes;
        EXPECT_EQ(store_->Lookup(key.first, 0)->version_number, entry.version.number);
      } else {
        ++(entry.state == State::kPrepared ? drafts : withheld);
      }
    }
    EXPECT_EQ(Df().drafts(), drafts);
    EXPECT_EQ(Df().withheld(), withheld);
    EXPECT_EQ(Df().tensors(), model.index.size());
    EXPECT_EQ(Df().tensor_bytes(), bytes);
    std::set<std::pair<std::string, OpId>> all;
    Records().ForEach([&](const directory::HeldRecord& held) { all.emplace(held.name, held.op); });
    EXPECT_EQ(all.size(), model.records.size());
  };
  for (int step = 0; step < 4000 && !HasFailure(); ++step) {
    if (model.records.empty() || random() % 3 == 0) {
      const std::string name = "n/" + std::to_string(random() % 30);
      const OpId op{random() % 2 + 1, ++count};
      const uint64_t nbytes = random() % 3 == 0 ? 0 : random() % 5000;
      Prepare(*session, Spec(name, nbytes), op);
      model.records[{name, op}].nbytes = nbytes;
    } else {
      const auto at = std::next(model.records.begin(), static_cast<long>(random() % model.records.size()));
      const auto key = at->first;
      const int what = static_cast<int>(random() % 8);
      if (what < 2) {
        Records().Drop(key.first, key.second);
        model.Leave(key);
        model.records.erase(key);
      } else {
        const State states[] = {State::kLive, State::kLive, State::kLive, State::kSuperseded, State::kUnconfirmed, State::kQuarantined};
        Model::Entry& entry = at->second;
        entry.state = states[what - 2];
        if (entry.version == Version{} && (what < 5 || random() % 2 == 0)) entry.version = {random() % 3 + 1, key.second.count};
        Set(key.first, key.second, entry.state, entry.version);
        what < 5 ? model.Enter(key) : model.Leave(key);
      }
    }
    if (step % 200 != 199) continue;
    check();
    KillAndRestart();
    session = NewSession();
    model.Restart();
    check();
  }
  for (const auto& [key, entry] : model.records) Records().Drop(key.first, key.second);
  const v1::DfResponse df = Df();
  EXPECT_EQ(df.block_bytes() + df.drafts() + df.withheld() + df.tensors() + df.draft_bytes() + df.withheld_bytes() + df.retired(), 0);
}

}  // namespace
}  // namespace penstock::server
