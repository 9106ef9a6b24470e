// Quotas of a node: tensors, and room for pins.
#include <gmock/gmock.h>

#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

class QuotaTest : public StoreTest {
 protected:
  void Restart(uint64_t max_tensors, uint64_t max_pins) {
    max_tensors_ = max_tensors;
    max_pins_ = max_pins;
    KillAndRestart();
  }
};

TEST_F(QuotaTest, PutBeyondMaxTensorsNamesTheQuotaAndChangesNothing) {
  Restart(3, 0);
  auto session = NewSession();
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(Put(*session, Spec(name, 100)).ok());
  const absl::Status refused = Put(*session, Spec("d", 100)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--max_tensors=3"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("put 'd'"));
  EXPECT_EQ(Df().tensors(), 3);
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().max_tensors(), 3);
  EXPECT_TRUE(Put(*session, Spec("a", 200)).ok()) << "what replaces a tensor adds none";
  store_->Delete("b", 0).value();
  EXPECT_TRUE(Put(*session, Spec("d", 100)).ok());
}

TEST_F(QuotaTest, DraftsCount) {
  Restart(2, 0);
  auto session = NewSession();
  const Placed draft = Reserve(*session, Spec("a", 100)).value();
  Reserve(*session, Spec("b", 100)).value();
  EXPECT_TRUE(absl::IsResourceExhausted(Reserve(*session, Spec("c", 100)).status()));
  EXPECT_TRUE(store_->Abort(*session, draft.record, draft.record_seq).ok());
  EXPECT_TRUE(Reserve(*session, Spec("c", 100)).ok());
}

TEST_F(QuotaTest, OldestOfTheCacheClassMakesRoom) {
  Restart(3, 0);
  auto session = NewSession();
  CreateSpec spec = Spec("old", 100);
  spec.keep = false;
  Put(*session, spec).value();
  spec.name = "young";
  Put(*session, spec).value();
  ASSERT_TRUE(Put(*session, Spec("kept", 100)).ok());
  ASSERT_TRUE(Put(*session, Spec("new", 100)).ok());
  EXPECT_FALSE(store_->Lookup("old", 0).ok());
  EXPECT_TRUE(store_->Lookup("young", 0).ok());
  EXPECT_EQ(Df().evictions(), 1);
  ASSERT_TRUE(Put(*session, Spec("newer", 100)).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Put(*session, Spec("newest", 100)).status()));
  EXPECT_EQ(Df().tensors(), 3);
}

TEST_F(QuotaTest, QuotaThatIsSmallerThanWhatIsThereRefusesNewOnesOnly) {
  auto session = NewSession();
  for (int i = 0; i < 10; ++i) Put(*session, Spec("x/" + std::to_string(i), 10)).value();
  Restart(5, 0);
  session = NewSession();
  EXPECT_EQ(Df().tensors(), 10);
  EXPECT_TRUE(absl::IsResourceExhausted(Put(*session, Spec("y", 10)).status()));
}

TEST_F(QuotaTest, RoomForPinsIsSharedByAllSessions) {
  Restart(0, 3 * layout::kPinsPerChunk);
  auto first = NewSession();
  auto second = NewSession();
  ASSERT_TRUE(store_->GrowPins(*first).ok());
  const absl::Status refused = store_->GrowPins(*second).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--max_pins=24576"));
  auto pair = SocketPair().value();
  auto third = store_->OpenSession({.pid = 1}, std::move(pair.first)).value();
  EXPECT_TRUE(absl::IsResourceExhausted(store_->AddRing(*third)));
  store_->EndSession(third->id);
  store_->EndSession(first->id);
  EXPECT_TRUE(store_->GrowPins(*second).ok());
  EXPECT_EQ(Df().max_pins(), 3 * layout::kPinsPerChunk);
}

}  // namespace
}  // namespace penstock::server
