#include "server/remote/remote_sessions.h"

#include <gmock/gmock.h>

#include "tests/unit/server/store/store_fixture.h"
#include "transport/monotonic.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

class RemoteSessionsTest : public StoreTest {
 protected:
  RemoteSessions::Opened Open(absl::Duration ttl = absl::Seconds(10), absl::Duration ago = absl::ZeroDuration()) {
    return remote().Open("test", ttl, false, MonotonicNow() - ago).value();
  }
  RemoteSessions& remote() {
    if (remote_ == nullptr) {
      channels_ = MutableMemory::Create(store_.get()).value();
      remote_ = std::make_unique<RemoteSessions>(store_.get(), &recall_.emplace(store_.get()), 3, channels_.get());
      remote_->OnEnd([this](const LaneToken& token) { ended_.push_back(token); });
    }
    return *remote_;
  }
  void TearDown() override { remote_.reset(); }
  // Of 100 bytes a step.
  void OpenChannel(const std::string& name) {
    remote();
    if (writer_ == nullptr) writer_ = NewSession();
    const MutableSpec spec{.kind = layout::MutableKind::kChannel, .create = true, .exclusive = false, .name = name, .nbytes = 100, .slots = 2,
                           .dtype = DType::kU8, .shape = Shape({100})};
    const uint32_t segment = channels_->Open(writer_->id, ++last_opened_, spec)->reply.segment;
    ASSERT_TRUE(channels_->Mapped(writer_->id, segment, last_opened_).ok());
  }
  absl::StatusOr<Published> Publish(const LaneToken& token, uint64_t draft) { return remote().Publish(token, {draft})[0]; }
  static std::string Text(const GrantedBlock& block) { return {block.data, block.bytes}; }
  // Puts under the name; what is pinned by nobody any more is reclaimed by the Df.
  void PutBytes(std::string_view name, uint64_t bytes, char fill) {
    if (writer_ == nullptr) writer_ = NewSession();
    Put(*writer_, Spec(name, bytes), fill).value();
  }

  std::shared_ptr<Session> writer_;
  uint64_t last_opened_ = 0;
  std::optional<LeaseRecall> recall_;
  std::unique_ptr<MutableMemory> channels_;
  std::unique_ptr<RemoteSessions> remote_;
  std::vector<LaneToken> ended_;
};

TEST_F(RemoteSessionsTest, AGrantOpensItsBlockToItsSessionForReading) {
  PutBytes("x", 1000, 'x');
  const LaneToken token = Open().token;
  const RemoteSessions::Located located = remote().Locate(token, "x", {}).value();
  EXPECT_EQ(located.info.nbytes(), 1000u);
  EXPECT_EQ(Text(remote().Use(token, located.grant, TransferKind::kRead).value()), std::string(1000, 'x'));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, located.grant, TransferKind::kWrite).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, located.grant + 1, TransferKind::kRead).status()));
  const LaneToken other = Open().token;
  EXPECT_NE(other, token);
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(other, located.grant, TransferKind::kRead).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(LaneToken{}, located.grant, TransferKind::kRead).status()));
}

TEST_F(RemoteSessionsTest, WhatAPutOffersIsReadInEverySessionUntilItIsOver) {
  PutBytes("x", 1000, 'x');
  const LaneToken token = Open().token, other = Open().token;
  const directory::OpId op{7, 1};
  EXPECT_EQ(remote().offers()->NumberOf(op), 0u);
  const Published there = store_->Lookup("x", 0).value();
  remote().offers()->Offer(op, store_->HoldLive(there.record, there.record_seq).value());
  const uint64_t offer = remote().offers()->NumberOf(op);
  for (const LaneToken& each : {token, other}) EXPECT_EQ(Text(remote().Use(each, offer, TransferKind::kRead).value()), std::string(1000, 'x'));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, offer, TransferKind::kWrite).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(LaneToken{}, offer, TransferKind::kRead).status()));
  GrantedBlock transfer = remote().Use(token, offer, TransferKind::kRead).value();
  PutBytes("x", 1000, 'y');  // its bytes stay, for who has begun, and as long as it is offered
  EXPECT_EQ(Text(remote().Use(token, offer, TransferKind::kRead).value()), std::string(1000, 'x'));
  remote().offers()->Withdraw(op);
  EXPECT_TRUE(absl::IsNotFound(remote().Use(token, offer, TransferKind::kRead).status()));  // not the session's end, as PERMISSION_DENIED would be
  PutBytes("z", 1000, 'z');
  EXPECT_EQ(Text(transfer), std::string(1000, 'x'));
  EXPECT_EQ(remote().offers()->NumberOf(op), 0u);
}

TEST_F(RemoteSessionsTest, AChannelIsFollowedByItsGrantInItsSession) {
  OpenChannel("c");
  const LaneToken token = Open().token, other = Open().token;
  EXPECT_TRUE(absl::IsNotFound(remote().OpenChannel(token, "d", false).status()));
  const RemoteSessions::OpenedChannel seen = remote().OpenChannel(token, "c", /*look=*/true).value();
  EXPECT_EQ(seen.grant, 0u);
  EXPECT_EQ(seen.facts.spec.nbytes, 100u);
  const uint64_t grant = remote().OpenChannel(token, "c", false)->grant;
  ASSERT_TRUE(remote().Follow(token, grant).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Follow(other, grant).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Follow(token, grant + 1).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, grant, TransferKind::kRead).status())) << "not a block";
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, grant, TransferKind::kWrite).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().OpenChannel(LaneToken{}, "c", false).status()));
}

TEST_F(RemoteSessionsTest, AChannelsGrantGoesWithReleaseWithAnotherOneAndWithItsSession) {
  OpenChannel("c");
  const uint64_t own = Df().channel_bytes();
  const LaneToken token = Open().token;
  const uint64_t first = remote().OpenChannel(token, "c", false)->grant;
  std::shared_ptr<StepSource> followed = remote().Follow(token, first).value();
  const uint64_t second = remote().OpenChannel(token, "c", false)->grant;
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Follow(token, first).status()));
  EXPECT_EQ(followed->After(0).state, StepSource::State::kReleased);
  EXPECT_EQ(Df().channel_bytes(), own + 200) << "a connection still has the first";
  followed.reset();
  EXPECT_EQ(Df().channel_bytes(), own + 100) << "one for each channel, however often it is opened";
  ASSERT_TRUE(remote().Release(token, {second}).ok());
  EXPECT_EQ(Df().channel_bytes(), own);
  EXPECT_TRUE(remote().OpenChannel(token, "c", false).ok());
  EXPECT_EQ(Df().channel_bytes(), own + 100);
  remote().Close(token);
  EXPECT_EQ(Df().channel_bytes(), own);
}

TEST_F(RemoteSessionsTest, WhatIsPinnedStaysThroughOverwriteAndDelete) {
  PutBytes("x", 100'000, 'a');
  const LaneToken token = Open().token;
  const uint64_t grant = remote().Locate(token, "x", {})->grant;
  PutBytes("x", 100'000, 'b');
  store_->Delete("x", 0).value();
  for (int i = 0; i < 50; ++i) PutBytes("other/" + std::to_string(i), 100'000, 'c');  // would take the block
  EXPECT_EQ(Df().retired(), 1u);
  EXPECT_EQ(Df().pins(), 1u);
  EXPECT_EQ(Text(remote().Use(token, grant, TransferKind::kRead).value()), std::string(100'000, 'a'));
  ASSERT_TRUE(remote().Release(token, {grant}).ok());
  EXPECT_EQ(Df().retired(), 0u);
  EXPECT_EQ(Df().pins(), 0u);
  EXPECT_TRUE(remote().Release(token, {grant, 77}).ok());  // again, and one that never was: no error
}

TEST_F(RemoteSessionsTest, ATransferHoldsItsBlockWhenTheSessionEnds) {
  PutBytes("x", 100'000, 'a');
  const LaneToken token = Open().token;
  const uint64_t grant = remote().Locate(token, "x", {})->grant;
  GrantedBlock block = remote().Use(token, grant, TransferKind::kRead).value();
  remote().Close(token);
  EXPECT_THAT(ended_, ::testing::ElementsAre(token));
  store_->Delete("x", 0).value();
  for (int i = 0; i < 50; ++i) PutBytes("other/" + std::to_string(i), 100'000, 'c');
  EXPECT_EQ(Text(block), std::string(100'000, 'a'));
  block = {};
  EXPECT_EQ(Df().retired(), 0u);
}

TEST_F(RemoteSessionsTest, OneAndTheSameTensorMayBePinnedOften) {
  PutBytes("x", 100, 'a');
  const LaneToken one = Open().token, two = Open().token;
  const uint64_t a = remote().Locate(one, "x", {})->grant, b = remote().Locate(one, "x", {})->grant, c = remote().Locate(two, "x", {})->grant;
  store_->Delete("x", 0).value();
  EXPECT_EQ(Df().pins(), 3u);
  ASSERT_TRUE(remote().Release(one, {a}).ok());
  EXPECT_EQ(Text(remote().Use(one, b, TransferKind::kRead).value()), std::string(100, 'a'));
  remote().Close(one);
  EXPECT_EQ(Df().retired(), 1u);
  EXPECT_EQ(Text(remote().Use(two, c, TransferKind::kRead).value()), std::string(100, 'a'));
  remote().Close(two);
  EXPECT_EQ(Df().retired(), 0u);
  EXPECT_EQ(Df().pins(), 0u);
}

TEST_F(RemoteSessionsTest, ASessionThatIsNotRenewedIsOverAtItsDeadline) {
  PutBytes("x", 100, 'a');
  const RemoteSessions::Opened opened = Open(absl::Seconds(2));
  remote().Locate(opened.token, "x", {}).value();
  const absl::Time now = MonotonicNow();
  remote().Expire(now + absl::Seconds(2));  // the margin is not over
  EXPECT_EQ(remote().count(), 1u);
  EXPECT_EQ(remote().Renew(opened.token, now + absl::Seconds(2)).value(), absl::Seconds(2));
  remote().Expire(now + absl::Seconds(4));
  EXPECT_EQ(remote().count(), 1u);
  EXPECT_EQ(Df().pins(), 1u);
  remote().Expire(now + absl::Seconds(4) + RemoteSessions::kMargin);
  EXPECT_EQ(remote().count(), 0u);
  EXPECT_EQ(Df().pins(), 0u);
  EXPECT_THAT(ended_, ::testing::ElementsAre(opened.token));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Renew(opened.token, now).status()));
}

TEST_F(RemoteSessionsTest, PastItsDeadlineASessionIsRefusedEvenBeforeItIsEnded) {
  PutBytes("x", 100, 'a');
  const LaneToken token = Open(absl::Seconds(1), absl::Seconds(1) + RemoteSessions::kMargin).token;
  EXPECT_FALSE(remote().KnowsToken(token));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Locate(token, "x", {}).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Renew(token, MonotonicNow()).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Release(token, {1})));
}

TEST_F(RemoteSessionsTest, EmptyTensorsNeedNoGrant) {
  PutBytes("empty", 0, 'x');
  const LaneToken token = Open().token;
  EXPECT_EQ(remote().Locate(token, "empty", {})->grant, 0u);
  EXPECT_EQ(Df().pins(), 0u);
}

TEST_F(RemoteSessionsTest, WhatIsWrongIsSaid) {
  const absl::Time now = MonotonicNow();
  EXPECT_THAT(std::string(remote().Open(std::string(64, 'l'), absl::Seconds(2), false, now).status().message()), HasSubstr("label"));
  for (absl::Duration ttl : {absl::Milliseconds(999), absl::Seconds(61), absl::InfiniteDuration(), -absl::Seconds(1)}) {
    EXPECT_THAT(std::string(remote().Open("", ttl, false, now).status().message()), HasSubstr("ttl_ns"));
  }
  const LaneToken token = Open().token;
  EXPECT_TRUE(absl::IsNotFound(remote().Locate(token, "missing", {}).status()));
  PutBytes("x", 10, 'a');
  EXPECT_TRUE(absl::IsNotFound(remote().Locate(token, "x", {.version = 77}).status()));
  Open();
  Open();
  EXPECT_TRUE(absl::IsResourceExhausted(remote().Open("", absl::Seconds(2), false, now).status()));
}

TEST_F(RemoteSessionsTest, PinsOfASessionAreBounded) {
  PutBytes("x", 10, 'a');
  const LaneToken token = Open().token;
  for (size_t i = 0; i < RemoteSessions::kMaxGrants; ++i) ASSERT_TRUE(remote().Locate(token, "x", {}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(remote().Locate(token, "x", {}).status()));
  EXPECT_EQ(Df().pins(), RemoteSessions::kMaxGrants);
  v1::PinsResponse pins;
  remote().ListPins({}, &pins);
  ASSERT_EQ(pins.pins_size(), 1);
  EXPECT_EQ(pins.pins(0).count(), RemoteSessions::kMaxGrants);
  v1::SessionsResponse sessions;
  remote().ListSessions(&sessions);
  EXPECT_EQ(sessions.sessions(0).label(), "test");
  EXPECT_EQ(sessions.sessions(0).pins(), RemoteSessions::kMaxGrants);
  remote().Close(token);
  EXPECT_EQ(Df().pins(), 0u);
}

class RemoteDraftTest : public RemoteSessionsTest {
 protected:
  uint64_t Reserve(const LaneToken& token, std::string_view name, uint64_t bytes) { return remote().Reserve(token, Spec(name, bytes), false)->draft; }
  // As the data port does it.
  void Write(const LaneToken& token, uint64_t draft, uint64_t offset, uint64_t length, char fill) {
    const GrantedBlock block = remote().Use(token, draft, TransferKind::kWrite).value();
    std::memset(block.data + offset, fill, length);
    block.wrote(ByteRuns::Whole(block.bytes), offset, length);
  }
};

TEST_F(RemoteDraftTest, IsSeenWhenItIsPublishedAndNotBefore) {
  const LaneToken token = Open().token;
  const uint64_t draft = Reserve(token, "x", 1000);
  EXPECT_EQ(Df().drafts(), 1u);
  Write(token, draft, 0, 1000, 'x');
  EXPECT_TRUE(absl::IsNotFound(store_->Stat("x", 0).status()));
  EXPECT_EQ(Publish(token, draft)->version_number, 1u);
  const uint64_t grant = remote().Locate(token, "x", {})->grant;
  EXPECT_EQ(Text(remote().Use(token, grant, TransferKind::kRead).value()), std::string(1000, 'x'));
  EXPECT_TRUE(absl::IsNotFound(Publish(token, draft).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, draft, TransferKind::kWrite).status())) << "immutable now";
  EXPECT_EQ(Df().drafts(), 0u);
}

TEST_F(RemoteDraftTest, IsWrittenByItsSessionOnlyAndReadByNobody) {
  const LaneToken token = Open().token;
  const LaneToken other = Open().token;
  const uint64_t draft = Reserve(token, "x", 1000);
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(other, draft, TransferKind::kWrite).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Use(token, draft, TransferKind::kRead).status()));
  EXPECT_TRUE(absl::IsNotFound(Publish(other, draft).status()));
  remote().Release(other, absl::MakeConstSpan(&draft, 1)).IgnoreError();
  EXPECT_EQ(Df().drafts(), 1u);
}

TEST_F(RemoteDraftTest, BytesThatAreMissingForbidToPublish) {
  const LaneToken token = Open().token;
  uint64_t draft = Reserve(token, "x", 1000);
  Write(token, draft, 0, 400, 'x');
  Write(token, draft, 600, 400, 'x');
  const absl::Status missing = Publish(token, draft).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("800 of 1000"));
  EXPECT_EQ(Df().drafts(), 0u);
  draft = Reserve(token, "x", 0);
  EXPECT_EQ(Publish(token, draft)->version_number, 1u) << "no bytes, none missing";
}

// What came by RDMA nobody saw here: the writer's word counts, but only from one who has got a key.
TEST_F(RemoteDraftTest, WhatWasWrittenByRdmaIsTakenFromWhoHasAKey) {
  const LaneToken token = Open().token;
  const uint64_t without = Reserve(token, "x", 1000), with = Reserve(token, "y", 1000);
  auto key = std::make_shared<int>();
  EXPECT_TRUE(absl::IsPermissionDenied(remote().ShareByRdma(LaneToken{}, with, key)));
  EXPECT_TRUE(absl::IsNotFound(remote().ShareByRdma(token, 999, key)));
  ASSERT_TRUE(remote().ShareByRdma(token, with, key).ok());
  EXPECT_EQ(key.use_count(), 2);
  const auto published = remote().Publish(token, {without, with}, {without, with});
  EXPECT_TRUE(absl::IsFailedPrecondition(published[0].status())) << published[0].status();
  EXPECT_TRUE(published[1].ok()) << published[1].status();
  EXPECT_EQ(key.use_count(), 1) << "what is immutable is not written any more";
}

TEST_F(RemoteDraftTest, AKeyGoesBeforeItsBlockDoes) {
  const LaneToken token = Open().token;
  for (const bool release : {true, false}) {
    const uint64_t draft = Reserve(token, "x", 1000);
    uint64_t drafts_when_it_went = 0;
    ASSERT_TRUE(remote().ShareByRdma(token, draft, std::shared_ptr<void>(nullptr, [&](void*) { drafts_when_it_went = Df().drafts(); })).ok());
    if (release) {
      remote().Release(token, absl::MakeConstSpan(&draft, 1)).IgnoreError();
    } else {
      remote().Close(token);
    }
    EXPECT_EQ(drafts_when_it_went, 1u);
    EXPECT_EQ(Df().drafts(), 0u);
  }
}

TEST_F(RemoteDraftTest, AWriteUnderWayForbidsToPublish) {
  const LaneToken token = Open().token;
  const uint64_t draft = Reserve(token, "x", 1000);
  Write(token, draft, 0, 1000, 'x');
  {
    const GrantedBlock late = remote().Use(token, draft, TransferKind::kWrite).value();
    EXPECT_TRUE(absl::IsFailedPrecondition(Publish(token, draft).status()));
  }
  EXPECT_TRUE(Publish(token, draft).ok());
}

TEST_F(RemoteDraftTest, TheBlockStaysWhileAWriteIsUnderWayWhateverBecomesOfItsSession) {
  const LaneToken token = Open().token;
  const uint64_t draft = Reserve(token, "x", 1000);
  {
    const GrantedBlock late = remote().Use(token, draft, TransferKind::kWrite).value();
    remote().Close(token);
    EXPECT_EQ(Df().drafts(), 1u) << "nobody else may get the block yet";
  }
  EXPECT_EQ(Df().drafts(), 0u);
}

TEST_F(RemoteDraftTest, GoesWithItsSession) {
  const LaneToken token = Open().token;
  Reserve(token, "x", 1000);
  remote().Expire(MonotonicNow() + absl::Seconds(100));
  EXPECT_EQ(Df().drafts(), 0u);
  EXPECT_TRUE(absl::IsPermissionDenied(remote().Reserve(token, Spec("x", 8), false).status()));
}

TEST_F(RemoteDraftTest, ARepetitionFindsWhatWasPublished) {
  const LaneToken token = Open().token;
  CreateSpec spec = Spec("x", 8);
  spec.request_id = 77;
  const uint64_t draft = remote().Reserve(token, spec, false)->draft;
  Write(token, draft, 0, 8, 'x');
  const Published published = Publish(token, draft).value();
  const RemoteSessions::Reserved again = remote().Reserve(Open().token, spec, true).value();
  ASSERT_TRUE(again.published.has_value());
  EXPECT_EQ(again.published->version_number, published.version_number);
  EXPECT_EQ(Df().drafts(), 0u);
  PutBytes("x", 8, 'y');  // somebody else's: now it would be another put
  EXPECT_FALSE(remote().Reserve(token, spec, true)->published.has_value());
}

TEST_F(RemoteDraftTest, IfHomeMeansATensorOfThisNodesOwn) {
  const LaneToken token = Open().token;
  EXPECT_TRUE(absl::IsNotFound(remote().Reserve(token, Spec("x", 8), true).status()));
  PutBytes("x", 8, 'x');
  EXPECT_TRUE(remote().Reserve(token, Spec("x", 8), true).ok());
}

TEST_F(RemoteDraftTest, ASessionHasOnlySoManyDrafts) {
  const LaneToken token = Open().token;
  for (size_t i = 0; i < RemoteSessions::kMaxDrafts; ++i) ASSERT_TRUE(remote().Reserve(token, Spec("x", 8), false).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(remote().Reserve(token, Spec("x", 8), false).status()));
  EXPECT_EQ(Df().drafts(), RemoteSessions::kMaxDrafts);
}

}  // namespace
}  // namespace penstock::server
