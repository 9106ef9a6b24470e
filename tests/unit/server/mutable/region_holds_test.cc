#include "server/mutable/region_holds.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

namespace penstock::server {
namespace {

using layout::HoldState;
using layout::HoldWord;

class ClearHoldsTest : public ::testing::Test {
 protected:
  layout::HoldSlot& Hold(uint32_t slot, uint64_t session, HoldState state) {
    layout::HoldSlot& hold = region_->slots[slot];
    hold.session.store(session);
    hold.word.store(HoldWord(state));
    return hold;
  }
  void Clear(uint64_t session) {
    ClearHolds(region_.get(), [session](uint64_t id) { return id == session; });
  }

  std::unique_ptr<layout::RegionHeader> region_ = std::make_unique<layout::RegionHeader>();
};

TEST_F(ClearHoldsTest, TakesWhatTheSessionHeldAndNothingElse) {
  Hold(0, 7, HoldState::kReading);
  layout::HoldSlot& other = Hold(3, 8, HoldState::kReading);
  Hold(layout::kHoldSlots - 1, 7, HoldState::kWantWrite);
  Clear(7);
  EXPECT_EQ(region_->slots[0].session.load(), 0u);
  EXPECT_EQ(region_->slots[0].word.load(), HoldWord(HoldState::kIdle));
  EXPECT_EQ(region_->slots[layout::kHoldSlots - 1].session.load(), 0u);
  EXPECT_EQ(other.session.load(), 8u);
  EXPECT_EQ(other.word.load(), HoldWord(HoldState::kReading));
  EXPECT_EQ(region_->turns.load(), 1u);
  EXPECT_EQ(region_->abandoned.load(), 0u);
}

TEST_F(ClearHoldsTest, WriterThatWroteLeavesItAbandoned) {
  Hold(2, 7, HoldState::kWriting);
  region_->writer.store(3);
  Clear(7);
  EXPECT_EQ(region_->writer.load(), 0u);
  EXPECT_EQ(region_->abandoned.load(), 1u);
}

TEST_F(ClearHoldsTest, WriterThatStillWaitedForReadersChangedNothing) {
  Hold(2, 7, HoldState::kWantWrite);
  region_->writer.store(3);
  Clear(7);
  EXPECT_EQ(region_->writer.load(), 0u);
  EXPECT_EQ(region_->abandoned.load(), 0u);
}

TEST_F(ClearHoldsTest, WriterThatHadEndedItsTurnLeavesTheNextOneAlone) {
  Hold(2, 7, HoldState::kWriting);  // died between giving the lock back and giving its slot back
  Hold(5, 8, HoldState::kWriting);
  region_->writer.store(6);
  Clear(7);
  EXPECT_EQ(region_->writer.load(), 6u);
  EXPECT_EQ(region_->abandoned.load(), 0u);
}

TEST_F(ClearHoldsTest, NothingToDoWakesNobody) {
  Hold(1, 8, HoldState::kReading);
  Clear(7);
  EXPECT_EQ(region_->turns.load(), 0u);
}

TEST_F(ClearHoldsTest, GarbageDoesNoHarm) {
  std::memset(static_cast<void*>(region_.get()), 0xff, sizeof(layout::RegionHeader));
  Clear(~uint64_t{0});
  for (const layout::HoldSlot& slot : region_->slots) EXPECT_EQ(slot.session.load(), 0u);
}

}  // namespace
}  // namespace penstock::server
