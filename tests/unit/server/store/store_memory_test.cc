// Memory: full, eviction, extents, adoption, back to zero.
#include <gmock/gmock.h>

#include "server/remote/node_session.h"
#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

TEST_F(StoreTest, FullStoreSaysWithNumbersAndRecoversAfterADelete) {
  auto session = NewSession();
  int stored = 0;
  absl::Status status;
  while (status.ok()) {
    status = Put(*session, Spec("t/" + std::to_string(stored), 1 << 20)).status();
    if (status.ok()) ++stored;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the store is full"));
  EXPECT_GE(stored, 56);  // of 64 MiB
  ASSERT_TRUE(store_->Delete("t/0", 0).ok());
  EXPECT_TRUE(Put(*session, Spec("again", 1 << 20)).ok());
  EXPECT_EQ(DeletePrefix("").value(), static_cast<uint64_t>(stored));
  EXPECT_EQ(Df().block_bytes(), 0);
}

TEST_F(StoreTest, CacheClassGivesWayOldestFirstKeepNever) {
  auto session = NewSession();
  Put(*session, Spec("keep", 1 << 20)).value();
  for (int i = 0; i < 100; ++i) {
    CreateSpec spec = Spec("cache/" + std::to_string(i), 1 << 20);
    const std::string name(spec.name);
    spec.name = name;
    spec.keep = false;
    ASSERT_TRUE(Put(*session, spec).ok()) << i;
  }
  EXPECT_TRUE(store_->Lookup("keep", 0).ok());
  EXPECT_FALSE(store_->Lookup("cache/0", 0).ok());
  EXPECT_TRUE(store_->Lookup("cache/99", 0).ok());
  EXPECT_GT(Df().evictions(), 30);
}

TEST_F(StoreTest, PinnedCacheTensorIsNotEvicted) {
  auto session = NewSession();
  auto reader = NewSession();
  CreateSpec spec = Spec("cache/first", 1 << 20);
  spec.keep = false;
  const Published first = Put(*session, spec, 'f').value();
  Pin(*reader, 0, first);
  for (int i = 0; i < 100; ++i) {
    const std::string name = "cache/" + std::to_string(i);
    CreateSpec next = Spec(name, 1 << 20);
    next.keep = false;
    ASSERT_TRUE(Put(*session, next).ok()) << i;
  }
  EXPECT_TRUE(store_->Lookup("cache/first", 0).ok());
  EXPECT_EQ(Df().retired(), 0);
  Unpin(*reader, 0);
  CreateSpec large = Spec("cache/large", 63 << 20);  // takes the place of all
  large.keep = false;
  ASSERT_TRUE(Put(*session, large).ok());
  EXPECT_FALSE(store_->Lookup("cache/first", 0).ok());
}

TEST_F(StoreTest, ExtentIsReusedByItsOwnSessionOnly) {
  auto one = NewSession();
  auto two = NewSession();
  CreateSpec spec = Spec("a", 3 << 20);
  spec.in_arena = false;
  Put(*one, spec).value();
  const uint64_t bytes = Df().extent_bytes();
  store_->Delete("a", 0).value();
  Put(*one, spec).value();
  EXPECT_EQ(Df().extent_bytes(), bytes);
  store_->Delete("a", 0).value();
  CreateSpec other = Spec("b", 3 << 20);
  other.in_arena = false;
  Put(*two, other).value();
  EXPECT_GT(Df().extent_bytes(), bytes);
}

TEST_F(StoreTest, UnsealedExtentIsNobodysAndGoesWithItsSession) {
  auto one = NewSession();
  auto two = NewSession();
  absl::StatusOr<SharedSegment> extent = store_->MakeExtent(one->id, 2 << 20);
  ASSERT_TRUE(extent.ok()) << extent.status();
  SharedSegment info;
  EXPECT_FALSE(store_->SegmentDescriptor(two->id, extent->id, &info));
  EXPECT_TRUE(absl::IsNotFound(store_->SealExtent(two->id, extent->id)));
  store_->EndSession(one->id);
  EXPECT_TRUE(absl::IsNotFound(store_->SealExtent(one->id, extent->id)));
  EXPECT_EQ(Df().extent_bytes(), 0);
}

TEST_F(StoreTest, BlocksOfADeadWriterAreAdopted) {
  auto writer = NewSession();
  CreateSpec large = Spec("large", 3 << 20);
  large.in_arena = false;
  CreateSpec small = Spec("small", 100000);
  small.in_arena = false;
  Put(*writer, large, 'l').value();
  const Published before = Put(*writer, small, 's').value();
  store_->Delete("large", 0).value();
  store_->EndSession(writer->id);
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (Df().extent_bytes() != 0 && absl::Now() < deadline) {
    const uint64_t epoch = store_->change_epoch();
    store_->Maintain();
    store_->WaitForChange(epoch, absl::Milliseconds(50));
  }
  EXPECT_EQ(Df().extent_bytes(), 0);
  const Published after = store_->Lookup("small", 0).value();
  EXPECT_EQ(after.version_number, before.version_number);
  EXPECT_NE(after.record, before.record);
  const v1::TensorInfo info = store_->Stat("small", 0).value();
  EXPECT_EQ(info.immutable(), "kernel");
  auto reader = NewSession();
  SharedSegment segment;
  const UniqueFd fd = store_->SegmentDescriptor(reader->id, info.location().segment(), &segment);
  const Mapping view = Mapping::MapReadOnly(fd.get(), segment.bytes).value();
  EXPECT_EQ(std::string(view.data() + info.location().offset(), 100000), std::string(100000, 's'));
}

TEST_F(StoreTest, ExtentThatHoldsOnlyADraftKeepsNoOtherFromAdoption) {
  store_.reset();
  memory_ = {};
  Start(/*adopt_always=*/true);
  std::vector<std::shared_ptr<Session>> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(NewSession());
  const std::string names[] = {"draft/0", "draft/1", "one", "two"};
  for (int i = 0; i < 4; ++i) {
    CreateSpec spec = Spec(names[i], 2 << 20);
    spec.in_arena = false;
    if (i < 2) {
      ASSERT_TRUE(Reserve(*sessions[i], spec).ok());
    } else {
      ASSERT_TRUE(Put(*sessions[i], spec).ok());
    }
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (Df().adoptions() < 2 && absl::Now() < deadline) {
    const uint64_t epoch = store_->change_epoch();
    store_->Maintain();
    store_->WaitForChange(epoch, absl::Milliseconds(50));
  }
  for (const char* name : {"one", "two"}) EXPECT_EQ(store_->Stat(name, 0)->immutable(), "kernel") << name;
}

TEST_F(StoreTest, MemoryWhosePagesAreBeingMadeIsWaitedForHoweverLongThatTakes) {
  NodeSession writer(store_.get(), "writer");
  const absl::StatusOr<Placed> placed = writer.Reserve(Spec("large", kMemory / 2), absl::ZeroDuration());
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_TRUE(absl::IsResourceExhausted(writer.Reserve(Spec("too large", kMemory), absl::ZeroDuration()).status()));
}

TEST_F(StoreTest, ArenaThatCannotBeMadeIsAClearError) {
  auto session = NewSession();
  memory_.fail_after_segments = 0;
  absl::Status status;
  for (int i = 0; i < 200 && status.ok(); ++i) status = Put(*session, Spec("t/" + std::to_string(i), 1 << 20)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

}  // namespace
}  // namespace penstock::server
