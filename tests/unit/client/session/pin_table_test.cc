#include "client/session/pin_table.h"

#include <gtest/gtest.h>
#include <fcntl.h>

#include <set>
#include <thread>

#include "transport/segment/memfd.h"

namespace penstock::client {
namespace {

absl::StatusOr<Mapping> NewChunk(uint32_t) {
  const auto memfd = CreateMemfd(
      {.name = "pins", .size = layout::kPinChunkBytes, .want = PageKind::kSmall});
  if (!memfd.ok()) return memfd.status();
  return Mapping::MapWritable(memfd->fd(), layout::kPinChunkBytes);
}

class PinTableTest : public ::testing::Test {
 protected:
  PinTableTest() { table_.AddFirstChunk(*NewChunk(0)); }
  static uint32_t Take(PinTable& table) {
    const uint32_t slot = table.TryTake();
    return slot != PinTable::kNoSlot ? slot : *table.TakeSlow();
  }
  PinTable table_{NewChunk};
};

TEST_F(PinTableTest, SlotsAreDistinctAcrossChunks) {
  std::set<uint32_t> slots;
  for (uint32_t i = 0; i < 3 * layout::kPinsPerChunk; ++i) slots.insert(Take(table_));
  EXPECT_EQ(slots.size(), 3 * layout::kPinsPerChunk);
  EXPECT_EQ(table_.chunk_count(), 3u);
  for (const uint32_t slot : slots) table_.Give(slot);
  for (uint32_t i = 0; i < 3 * layout::kPinsPerChunk; ++i) Take(table_);
  EXPECT_EQ(table_.chunk_count(), 3u);
}

TEST_F(PinTableTest, RefusalToGrowIsReported) {
  PinTable table([](uint32_t) { return absl::UnavailableError("no node"); });
  table.AddFirstChunk(*NewChunk(0));
  for (uint32_t i = 0; i < layout::kPinsPerChunk; ++i) Take(table);
  EXPECT_TRUE(absl::IsUnavailable(table.TakeSlow().status()));
}

TEST_F(PinTableTest, ThreadsThatEndGiveTheirSlotsBack) {
  for (int i = 0; i < 2000; ++i) {
    std::thread([&] { table_.Give(Take(table_)); }).join();
  }
  EXPECT_EQ(table_.chunk_count(), 1u);
}

TEST_F(PinTableTest, ThreadMayUseTwoTablesByTurns) {
  PinTable other(NewChunk);
  other.AddFirstChunk(*NewChunk(0));
  for (int i = 0; i < 20000; ++i) {
    table_.Give(Take(table_));
    other.Give(Take(other));
  }
  EXPECT_EQ(table_.chunk_count() + other.chunk_count(), 2u);
}

TEST_F(PinTableTest, TableMayGoBeforeTheThreadThatUsedIt) {
  auto other = std::make_unique<PinTable>(NewChunk);
  other->AddFirstChunk(*NewChunk(0));
  std::thread([&] {
    other->Give(Take(*other));
    other.reset();
    table_.Give(Take(table_));
  }).join();
}

TEST_F(PinTableTest, CopiesCarryThePinsAndTakeTheirPlace) {
  const uint32_t slot = Take(table_);
  table_.Word(slot).store(77);
  EXPECT_TRUE(table_.AnyPinned());
  table_.Freeze();
  EXPECT_NE(table_.gate(), 0u);
  const auto copies = table_.CopyChunks();
  ASSERT_TRUE(copies.ok()) << copies.status();
  EXPECT_TRUE(GetSeals(copies->at(0).get()).value() & F_SEAL_SHRINK);
  std::atomic<uint64_t>* const before = &table_.Word(slot);
  {
    std::lock_guard<std::mutex> lock(table_.mutex());
    EXPECT_TRUE(table_.ChildReset(*copies));
  }
  EXPECT_EQ(&table_.Word(slot), before);
  EXPECT_EQ(table_.Word(slot).load(), 77u);
  EXPECT_EQ(table_.gate(), 0u);
  std::set<uint32_t> slots = {slot};
  for (uint32_t i = 1; i < layout::kPinsPerChunk; ++i) slots.insert(Take(table_));
  EXPECT_EQ(slots.size(), layout::kPinsPerChunk);  // the pinned slot was not given out again
}

TEST_F(PinTableTest, WithoutCopiesAChildWritesToNobody) {
  const uint32_t slot = Take(table_);
  table_.Word(slot).store(77);
  std::lock_guard<std::mutex> lock(table_.mutex());
  EXPECT_FALSE(table_.ChildReset({}));
  EXPECT_EQ(table_.gate(), PinTable::kEnded);
  EXPECT_FALSE(table_.WaitOpen());
}

TEST_F(PinTableTest, FrozenTableHoldsWhoWaitsUntilItThaws) {
  table_.Freeze();
  std::atomic<bool> through{false};
  std::thread waiter([&] {
    EXPECT_TRUE(table_.WaitOpen());
    through = true;
  });
  EXPECT_FALSE(through);
  table_.Thaw();
  waiter.join();
  EXPECT_TRUE(through);
}

}  // namespace
}  // namespace penstock::client
