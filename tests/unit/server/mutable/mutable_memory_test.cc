#include "server/mutable/mutable_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "proto/layout/channel_layout.h"
#include "proto/layout/region_layout.h"
#include "tests/unit/server/store/store_fixture.h"
#include "transport/segment/memfd.h"

namespace penstock::server {
namespace {

using layout::MutableKind;
using layout::MutableRequest;

MutableRequest Request(MutableKind kind, std::string_view name, uint32_t flags = 0) {
  MutableRequest request{};
  request.kind = kind;
  request.flags = flags;
  request.name_bytes = static_cast<uint16_t>(name.size());
  std::memcpy(request.name, name.data(), name.size());
  return request;
}
MutableRequest ChannelRequest(std::string_view name) {
  MutableRequest request = Request(MutableKind::kChannel, name, layout::kMutableCreate);
  request.nbytes = 400;
  request.slots = 4;
  request.dtype = static_cast<uint8_t>(DType::kF32);
  request.rank = 1;
  request.shape[0] = 100;
  return request;
}
MutableSpec Spec(const MutableRequest& request) { return MutableSpec::FromMessage(request).value(); }
MutableSpec Channel(std::string_view name) { return Spec(ChannelRequest(name)); }
MutableSpec Reader(std::string_view name) { return Spec(Request(MutableKind::kChannel, name)); }
MutableSpec Region(std::string_view name, uint64_t nbytes = 100) {
  MutableRequest request = Request(MutableKind::kRegion, name, nbytes == 0 ? 0 : uint32_t{layout::kMutableCreate});
  request.nbytes = nbytes;
  return Spec(request);
}

class MutableMemoryTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    memory_table_ = MutableMemory::Create(store_.get()).value();
  }
  void KillAndRestartAll() {
    memory_table_.reset();
    KillAndRestart();
    memory_table_ = MutableMemory::Create(store_.get()).value();
  }
  // As the client does it: opened, mapped, sealed.
  MutableMemory::Opened OpenChannel(const Session& session, std::string_view name, uint64_t number = 1) {
    MutableMemory::Opened opened = memory_table_->Open(session.id, number, Channel(name)).value();
    EXPECT_TRUE(memory_table_->Mapped(session.id, opened.reply.segment, number).ok());
    return opened;
  }
  void Close(const Session& session, uint32_t segment, uint64_t number, uint32_t flags = 0) {
    memory_table_->Closed(session.id, {.header = {}, .segment = segment, .flags = flags, .opened = number});
  }
  void End(const Session& session) {
    store_->EndSession(session.id);
    memory_table_->SessionEnded(session.id);
  }
  void ExpectNothingLeft() {
    const v1::DfResponse df = Df();
    EXPECT_EQ(df.channels() + df.regions() + df.channel_bytes() + df.region_bytes(), 0u);
    for (const auto& [id, kept] : memory_.segments) {
      EXPECT_NE(kept.segment.kind, layout::SegmentKind::kChannel);
      EXPECT_NE(kept.segment.kind, layout::SegmentKind::kRegion);
    }
  }

  std::unique_ptr<MutableMemory> memory_table_;
};

TEST_F(MutableMemoryTest, ChannelHasItsNameOnceItIsSealed) {
  const auto writer = NewSession(), reader = NewSession();
  const MutableMemory::Opened opened = memory_table_->Open(writer->id, 1, Channel("x")).value();
  EXPECT_FALSE(IsFullySealed(opened.fd.get()));
  EXPECT_TRUE(absl::IsNotFound(memory_table_->Open(reader->id, 1, Reader("x")).status()));
  EXPECT_TRUE(absl::IsNotFound(memory_table_->Mapped(reader->id, opened.reply.segment, 1))) << "not the reader's to seal";
  EXPECT_TRUE(absl::IsAlreadyExists(memory_table_->Open(reader->id, 1, Channel("x")).status()));
  const uint32_t turns = store_->header()->mutable_turns.load();
  ASSERT_TRUE(memory_table_->Mapped(writer->id, opened.reply.segment, 1).ok());
  EXPECT_EQ(store_->header()->mutable_turns.load(), turns + 1);
  EXPECT_TRUE(IsFullySealed(opened.fd.get()));
  const auto subscribed = memory_table_->Open(reader->id, 2, Reader("x"));
  ASSERT_TRUE(subscribed.ok()) << subscribed.status();
  EXPECT_EQ(subscribed->reply.shape[0], 100);
  EXPECT_EQ(subscribed->reply.nbytes, 400u);
  SharedSegment info;
  EXPECT_FALSE(store_->SegmentDescriptor(reader->id, opened.reply.segment, &info)) << "only by name, so that it is counted";
}

TEST_F(MutableMemoryTest, MemoryIsCountedUntilAllHaveClosedIt) {
  const auto writer = NewSession(), reader = NewSession();
  const uint32_t segment = OpenChannel(*writer, "x").reply.segment;
  ASSERT_TRUE(memory_table_->Open(reader->id, 1, Reader("x")).ok());
  ASSERT_TRUE(memory_table_->Open(reader->id, 2, Reader("x")).ok());
  EXPECT_EQ(Df().channel_bytes(), layout::ChannelBytes(400, 4));
  Close(*writer, segment, 1, layout::kMutableStillMapped);
  EXPECT_TRUE(absl::IsNotFound(memory_table_->Open(reader->id, 3, Reader("x")).status()));
  const uint32_t next = OpenChannel(*writer, "x", 2).reply.segment;
  EXPECT_NE(next, segment) << "what a client could write is never given to another";
  Close(*reader, segment, 1);
  Close(*writer, segment, 1);
  EXPECT_EQ(Df().channels(), 2u);
  Close(*reader, segment, 1);  // twice: no matter
  Close(*reader, segment, 2);
  EXPECT_EQ(Df().channels(), 1u);
  End(*writer);
  End(*reader);
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, EndOfTheWritersSessionClosesItsChannel) {
  const auto writer = NewSession(), reader = NewSession();
  const uint32_t segment = OpenChannel(*writer, "x").reply.segment;
  const MutableMemory::Opened opened = memory_table_->Open(reader->id, 1, Reader("x")).value();
  const Mapping mapping = Mapping::MapReadOnly(opened.fd.get(), opened.reply.bytes).value();
  EXPECT_EQ(layout::ChannelHeaderAt(mapping.data())->closed.load(), 0u);
  End(*writer);
  EXPECT_EQ(layout::ChannelHeaderAt(mapping.data())->closed.load(), 1u);
  EXPECT_EQ(layout::ChannelHeaderAt(mapping.data())->turns.load(), 1u);
  Close(*reader, segment, 1);
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, NextProcessKnowsChannelsRegionsAndWhoHasThemOpen) {
  const auto writer = NewSession(), reader = NewSession();
  const uint32_t channel = OpenChannel(*writer, "x").reply.segment;
  ASSERT_TRUE(memory_table_->Open(reader->id, 9, Reader("x")).ok());
  const uint32_t region = memory_table_->Open(reader->id, 2, Region("r")).value().reply.segment;
  const uint32_t opening = memory_table_->Open(writer->id, 7, Channel("half")).value().reply.segment;
  KillAndRestartAll();
  EXPECT_EQ(Df().channels(), 1u) << "what was not sealed is gone";
  EXPECT_EQ(Df().channel_bytes(), layout::ChannelBytes(400, 4));
  EXPECT_EQ(Df().region_bytes(), layout::RegionBytes(100));
  EXPECT_TRUE(absl::IsNotFound(memory_table_->Mapped(writer->id, opening, 7)));
  EXPECT_TRUE(memory_table_->Mapped(writer->id, channel, 1).ok()) << "asked again by a client that got no answer";
  EXPECT_EQ(memory_table_->Open(writer->id, 1, Channel("x"))->reply.segment, channel) << "likewise";
  EXPECT_TRUE(absl::IsAlreadyExists(memory_table_->Open(writer->id, 8, Channel("x")).status()));
  EXPECT_EQ(memory_table_->Open(writer->id, 3, Region("r", 0))->reply.segment, region);
  Close(*reader, region, 2);
  Close(*writer, region, 3);
  EXPECT_EQ(Df().regions(), 0u);
  End(*store_->FindSession(writer->id));
  End(*store_->FindSession(reader->id));
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, NextProcessCountsThemBeforeItMakesAnything) {
  const auto session = NewSession();
  const uint64_t most = Df().memory_bytes() - Df().segment_bytes();
  uint64_t nbytes = most / 4096 * 4096 - layout::kRegionDataOffset;
  absl::StatusOr<MutableMemory::Opened> opened = absl::UnknownError("");
  for (int tries = 0; tries < 64 && !opened.ok(); ++tries, nbytes -= 1 << 20) {  // an arena may be on its way
    opened = memory_table_->Open(session->id, static_cast<uint64_t>(tries) + 1, Region("r", nbytes));
  }
  ASSERT_TRUE(opened.ok()) << opened.status();
  KillAndRestartAll();
  EXPECT_LE(Df().segment_bytes() + Df().region_bytes(), Df().memory_bytes());
  EXPECT_TRUE(absl::IsResourceExhausted(memory_table_->Open(session->id, 100, Region("s", nbytes)).status()));
  End(*store_->FindSession(session->id));
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, SessionThatEndedWithTheProcessTakesItsThingsWithIt) {
  const auto writer = NewSession(), reader = NewSession();
  OpenChannel(*writer, "x");
  ASSERT_TRUE(memory_table_->Open(writer->id, 2, Region("r")).ok());
  const MutableMemory::Opened opened = memory_table_->Open(reader->id, 1, Reader("x")).value();
  store_->EndSession(writer->id);  // and the process dies before it tells the table
  KillAndRestartAll();
  const Mapping mapping = Mapping::MapReadOnly(opened.fd.get(), opened.reply.bytes).value();
  EXPECT_EQ(layout::ChannelHeaderAt(mapping.data())->closed.load(), 1u);
  EXPECT_EQ(Df().regions(), 0u);
  EXPECT_TRUE(absl::IsNotFound(memory_table_->Open(reader->id, 2, Reader("x")).status()));
  End(*store_->FindSession(reader->id));
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, MoreOpeningsThanTheBookRemembers) {
  const auto one = NewSession(), two = NewSession();
  const uint32_t segment = memory_table_->Open(one->id, 1, Region("r")).value().reply.segment;
  for (uint64_t i = 2; i <= kBookHolders + 5; ++i) ASSERT_TRUE(memory_table_->Open(two->id, i, Region("r")).ok());
  KillAndRestartAll();
  for (uint64_t i = 2; i <= kBookHolders + 5; ++i) Close(*two, segment, i);
  Close(*one, segment, 1);
  EXPECT_EQ(Df().regions(), 1u) << "who else had it open is not known";
  End(*store_->FindSession(two->id));
  End(*store_->FindSession(one->id));
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, RegionIsOpenedAsItIs) {
  const auto session = NewSession();
  EXPECT_TRUE(absl::IsNotFound(memory_table_->Open(session->id, 1, Region("r", 0)).status()));
  EXPECT_TRUE(memory_table_->Open(session->id, 2, Region("r")).value().reply.made);
  EXPECT_FALSE(memory_table_->Open(session->id, 3, Region("r")).value().reply.made);
  EXPECT_TRUE(absl::IsInvalidArgument(memory_table_->Open(session->id, 4, Region("r", 101)).status()));
  MutableSpec exclusive = Region("r");
  exclusive.exclusive = true;
  EXPECT_TRUE(absl::IsAlreadyExists(memory_table_->Open(session->id, 5, exclusive).status()));
  EXPECT_TRUE(*memory_table_->Delete(Region("r")));
  EXPECT_FALSE(*memory_table_->Delete(Region("r")));
  EXPECT_TRUE(memory_table_->Open(session->id, 6, exclusive).ok());
  EXPECT_EQ(Df().regions(), 2u);
  EXPECT_TRUE(absl::IsInvalidArgument(memory_table_->Delete(Channel("r")).status()));
  End(*session);
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, NoClientSealsARegionAgainstTheNextOne) {
  const auto session = NewSession();
  const UniqueFd fd = std::move(memory_table_->Open(session->id, 1, Region("r")).value().fd);
  EXPECT_NE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  EXPECT_TRUE(Mapping::MapWritable(fd.get(), layout::RegionBytes(100)).ok());
  EXPECT_NE(ftruncate(fd.get(), 0), 0);
}

TEST_F(MutableMemoryTest, MemoryOfTheCacheClassMakesRoom) {
  const auto session = NewSession();
  CreateSpec cache = Spec("cached", 1 << 20);
  cache.keep = false;
  for (int i = 0; i < 40; ++i) {
    const std::string name = "cached/" + std::to_string(i);
    cache.name = name;
    ASSERT_TRUE(Put(*session, cache).ok());
  }
  EXPECT_TRUE(memory_table_->Open(session->id, 1, Region("r", kMemory / 2)).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(memory_table_->Open(session->id, 2, Region("s", kMemory)).status()));
  End(*session);
  ExpectNothingLeft();
}

TEST_F(MutableMemoryTest, SessionThatHasEndedOpensNothing) {
  const auto session = NewSession(), other = NewSession();
  ASSERT_TRUE(memory_table_->Open(other->id, 1, Region("r")).ok());
  End(*session);
  EXPECT_TRUE(absl::IsUnavailable(memory_table_->Open(session->id, 1, Region("r")).status()));
  EXPECT_TRUE(absl::IsUnavailable(memory_table_->Open(session->id, 2, Region("new")).status()));
  End(*other);
  ExpectNothingLeft();
}

TEST(MutableSpec, RefusesWhatAHostileClientMaySay) {
  const auto refused = [](MutableRequest request) { return absl::IsInvalidArgument(MutableSpec::FromMessage(request).status()); };
  const MutableRequest good = ChannelRequest("x");
  ASSERT_FALSE(refused(good));
  MutableRequest bad = good;
  bad.kind = static_cast<MutableKind>(3);
  EXPECT_TRUE(refused(bad));
  for (const uint16_t name_bytes : {uint16_t{0}, uint16_t{513}, uint16_t{65535}}) {
    bad = good;
    bad.name_bytes = name_bytes;
    EXPECT_TRUE(refused(bad)) << name_bytes;
  }
  for (const uint32_t slots : {0u, 1u, layout::kMaxSlots + 1, ~0u}) {
    bad = good;
    bad.slots = slots;
    EXPECT_TRUE(refused(bad)) << slots;
  }
  for (const uint64_t nbytes : {uint64_t{0}, uint64_t{399}, ~uint64_t{0}}) {
    bad = good;
    bad.nbytes = nbytes;
    EXPECT_TRUE(refused(bad)) << nbytes;
  }
  for (const uint8_t rank : {uint8_t{17}, uint8_t{255}}) {
    bad = good;
    bad.rank = rank;
    EXPECT_TRUE(refused(bad)) << int{rank};
  }
  for (const int64_t dim : {int64_t{-1}, INT64_MAX, INT64_MIN}) {
    bad = good;
    bad.shape[0] = dim;
    EXPECT_TRUE(refused(bad)) << dim;
  }
  bad = good;
  bad.dtype = 255;
  EXPECT_TRUE(refused(bad));
  bad = good;  // of a legal shape, and more than there can be
  bad.shape[0] = int64_t{1} << 50;
  bad.nbytes = uint64_t{1} << 52;
  EXPECT_TRUE(refused(bad));
  bad = Request(MutableKind::kRegion, "x", layout::kMutableCreate);
  EXPECT_TRUE(refused(bad)) << "no size";
  bad.nbytes = ~uint64_t{0};
  EXPECT_TRUE(refused(bad));
}

}  // namespace
}  // namespace penstock::server
