// Chains of fetches: who reads from whom, and copies that others read while they grow.
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <optional>

#include "server/remote/fetch_chains.h"
#include "server/remote/growing_copies.h"
#include "server/remote/node_session.h"
#include "server/remote/remote_sessions.h"
#include "tests/unit/server/store/store_fixture.h"
#include "transport/monotonic.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

constexpr FetchChains::Tensor kX{64, 3}, kY{128, 3};

NodeUuid Node(uint8_t number) {
  NodeUuid node{};
  node[0] = number;
  return node;
}

TEST(FetchChains, EachFollowsTheOneThatBeganBeforeIt) {
  FetchChains chains;
  FetchChains::Joined a = chains.Join(kX, Node(1)), b = chains.Join(kX, Node(2)), c = chains.Join(kX, Node(3));
  EXPECT_EQ(a.ahead, std::nullopt);
  EXPECT_EQ(b.ahead, Node(1));
  EXPECT_EQ(c.ahead, Node(2));
  EXPECT_EQ(c.ahead_count, 2u);
  EXPECT_EQ(chains.Join(kY, Node(4)).ahead, std::nullopt) << "another tensor's chain";
  c.place.reset();
  EXPECT_EQ(chains.Join(kX, Node(4)).ahead, Node(2)) << "who has left is not followed";
  a.place.reset();
  b.place.reset();
  EXPECT_EQ(chains.Join(kX, Node(5)).ahead, std::nullopt);
}

TEST(FetchChains, WhoAsksAgainFollowsNobodyThatMayFollowIt) {
  FetchChains chains;
  const FetchChains::Joined a = chains.Join(kX, Node(1)), b = chains.Join(kX, Node(2)), c = chains.Join(kX, Node(3));
  const FetchChains::Joined again = chains.Join(kX, Node(2));
  EXPECT_EQ(again.ahead, Node(1));
  EXPECT_EQ(chains.Join(kX, Node(1)).ahead, std::nullopt);
}

TEST(FetchChains, APlaceOutlivesTheChains) {
  std::optional<FetchChains> chains(std::in_place);
  const FetchChains::Joined a = chains->Join(kX, Node(1));
  chains.reset();
}

class GrowingCopiesTest : public StoreTest {
 protected:
  static constexpr uint64_t kBytes = uint64_t{1} << 20;

  void SetUp() override {
    StoreTest::SetUp();
    bell_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    copies_.emplace(bell_.get());
    writer_.emplace(store_.get(), "fetch");
    remote_.emplace(store_.get(), &recall_.emplace(store_.get()), 10);
    remote_->ServeGrowing(&*copies_);
    token_ = remote_->Open("reader", absl::Seconds(10), false, MonotonicNow())->token;
  }
  void TearDown() override {
    remote_.reset();
    writer_.reset();
  }
  // A copy of version 5 of "x", of which nothing is there.
  GrowingCopies::Entry Begin() {
    CreateSpec spec = Spec("x", kBytes);
    spec.fetched = true;
    spec.keep = false;
    spec.version = 5;
    spec.created_ns = 77;
    placed_ = writer_->Reserve(spec, absl::Seconds(1)).value();
    std::memset(placed_.block.address, 'x', kBytes);
    return copies_->Begin({"x", 5, 77}, writer_->Hold(placed_).value());
  }
  bool Rang() {
    uint64_t count = 0;
    return read(bell_.get(), &count, sizeof(count)) == static_cast<ssize_t>(sizeof(count));
  }
  void FillWith(char fill) {
    const auto session = NewSession();
    for (int i = 0; i < 55; ++i) (void)Put(*session, Spec("other/" + std::to_string(i), kBytes), fill);
  }

  UniqueFd bell_;
  std::optional<GrowingCopies> copies_;
  std::optional<NodeSession> writer_;
  std::optional<LeaseRecall> recall_;
  std::optional<RemoteSessions> remote_;
  LaneToken token_{};
  Placed placed_;
};

TEST_F(GrowingCopiesTest, TellsWhatIsThereAndRingsForWhoWaits) {
  const GrowingCopies::Entry entry = Begin();
  GrowingCopy& copy = *entry.copy();
  copy.Arrived(0, kBytes / 2);
  EXPECT_FALSE(Rang()) << "nobody waits";
  EXPECT_EQ(*copy.Ready(100), kBytes / 2 - 100);
  EXPECT_EQ(*copy.Ready(kBytes / 2), 0u);
  copy.Arrived(kBytes / 2, kBytes - 1);
  EXPECT_TRUE(Rang());
  EXPECT_EQ(*copy.Ready(kBytes - 1), 0u);
  copy.Arrived(kBytes - 1, kBytes);
  EXPECT_TRUE(Rang()) << "the end is told, however short";
  EXPECT_TRUE(copy.Missing().empty());
  copy.Fail(absl::UnavailableError("gone"));
  EXPECT_EQ(*copy.Ready(0), kBytes) << "what has come is there";
}

TEST_F(GrowingCopiesTest, WhatWillNotComeIsAnError) {
  const GrowingCopies::Entry entry = Begin();
  EXPECT_EQ(*entry.copy()->Ready(0), 0u);
  entry.copy()->Fail(absl::UnavailableError("gone"));
  EXPECT_TRUE(Rang());
  EXPECT_TRUE(absl::IsUnavailable(entry.copy()->Ready(0).status()));
}

TEST_F(GrowingCopiesTest, AReaderKeepsTheBlockThroughPublishOverwriteAndEviction) {
  std::optional<GrowingCopies::Entry> entry(Begin());
  const RemoteSessions::LocatedCopy located = remote_->LocateCopy(token_, "x", 5, 77).value();
  EXPECT_EQ(located.nbytes, kBytes);
  EXPECT_TRUE(absl::IsNotFound(remote_->LocateCopy(token_, "x", 5, 78).status()));
  EXPECT_TRUE(absl::IsNotFound(remote_->LocateCopy(token_, "x", 4, 77).status()));
  EXPECT_NE(remote_->Use(token_, located.grant, TransferKind::kRead)->growing, nullptr);
  EXPECT_FALSE(remote_->Use(token_, located.grant, TransferKind::kWrite).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Stat("x", 0).status())) << "nobody finds it by its name";
  EXPECT_TRUE(absl::IsNotFound(remote_->Locate(token_, "x", {}).status()));
  entry->copy()->Arrived(0, kBytes);
  ASSERT_TRUE(writer_->Publish(placed_).ok());
  entry.reset();
  const RemoteSessions::LocatedCopy whole = remote_->LocateCopy(token_, "x", 5, 77).value();
  EXPECT_EQ(remote_->Use(token_, whole.grant, TransferKind::kRead)->growing, nullptr);
  ASSERT_TRUE(remote_->Release(token_, {whole.grant}).ok());
  store_->DropCopy("x");
  FillWith('z');
  EXPECT_EQ(std::string(remote_->Use(token_, located.grant, TransferKind::kRead)->data, kBytes), std::string(kBytes, 'x'));
  EXPECT_EQ(Df().pins(), 1u);
  ASSERT_TRUE(remote_->Release(token_, {located.grant}).ok());
  EXPECT_EQ(Df().pins(), 0u);
  EXPECT_EQ(Df().retired(), 0u);
}

// A draft that is given up, or that may not become live, is freed at once, but not under a reader.
TEST_F(GrowingCopiesTest, AReaderKeepsTheBlockOfACopyThatFails) {
  for (const bool refused : {false, true}) {
    std::optional<GrowingCopies::Entry> entry(Begin());
    const uint64_t grant = remote_->LocateCopy(token_, "x", 5, 77)->grant;
    if (refused) {
      Put(*NewSession(), Spec("x", 10)).value();  // its own now
      EXPECT_TRUE(absl::IsAborted(writer_->Publish(placed_).status()));
    } else {
      entry->copy()->Fail(absl::UnavailableError("gone"));
      writer_->Abort(placed_);
    }
    entry.reset();
    FillWith('z');
    EXPECT_EQ(std::string(remote_->Use(token_, grant, TransferKind::kRead)->data, kBytes), std::string(kBytes, 'x'));
    EXPECT_EQ(Df().drafts(), 0u);
    EXPECT_EQ(Df().retired(), 1u);
    ASSERT_TRUE(remote_->Release(token_, {grant}).ok());
    EXPECT_EQ(Df().retired(), 0u);
    EXPECT_EQ(Df().pins(), 0u);
    DeletePrefix("").value();
  }
}

TEST_F(GrowingCopiesTest, TheChainIsJoinedWithAGrantAndLeftWithIt) {
  Put(*NewSession(), Spec("x", 1000)).value();
  const LaneToken other = remote_->Open("reader", absl::Seconds(10), false, MonotonicNow())->token;
  const uint64_t first = remote_->Locate(token_, "x", {})->grant;
  const uint64_t second = remote_->Locate(other, "x", {})->grant;
  EXPECT_EQ(remote_->JoinChain(token_, first, Node(1))->ahead, std::nullopt);
  EXPECT_TRUE(absl::IsFailedPrecondition(remote_->JoinChain(token_, first, Node(1)).status()));
  EXPECT_TRUE(absl::IsNotFound(remote_->JoinChain(other, first, Node(2)).status())) << "not its own";
  EXPECT_TRUE(absl::IsPermissionDenied(remote_->JoinChain(LaneToken{}, first, Node(2)).status()));
  EXPECT_EQ(remote_->JoinChain(other, second, Node(2))->ahead, Node(1));
  remote_->Close(token_);
  const uint64_t third = remote_->Locate(other, "x", {})->grant;
  EXPECT_EQ(remote_->JoinChain(other, third, Node(3))->ahead, Node(2));
}

}  // namespace
}  // namespace penstock::server
