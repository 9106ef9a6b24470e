// Channels between nodes, as far as their memory goes: what is followed here, and mirrors of what is written elsewhere.
#include "server/mutable/mirror.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "proto/layout/channel_layout.h"
#include "tests/unit/server/store/store_fixture.h"
#include "transport/segment/mapping.h"
#include "transport/stream/stream_wire.h"

namespace penstock::server {
namespace {

using layout::MutableKind;
using State = StepSource::State;

constexpr uint32_t kSlots = 4;
constexpr uint64_t kBytes = 400;

class MirrorTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    table_ = MutableMemory::Create(store_.get()).value();
  }
  void KillAndRestartAll() {
    table_.reset();
    KillAndRestart();
    table_ = MutableMemory::Create(store_.get()).value();
  }
  static MutableSpec Channel(const std::string& name) {
    return {.kind = MutableKind::kChannel, .create = true, .exclusive = false, .name = name, .nbytes = kBytes, .slots = kSlots, .dtype = DType::kU8,
            .shape = Shape({static_cast<int64_t>(kBytes)})};
  }
  static MutableSpec Reader(const std::string& name) {
    MutableSpec spec = Channel(name);
    spec.create = false;
    return spec;
  }
  static MutableMemory::Facts Facts(uint64_t incarnation = 77) { return {.spec = Channel("x"), .incarnation = incarnation, .newest = 0}; }
  void End(const Session& session) {
    store_->EndSession(session.id);
    table_->SessionEnded(session.id);
  }
  // The writer's memory of a channel that is open.
  Mapping OpenWriter(const Session& session, const std::string& name = "x") {
    const MutableMemory::Opened opened = table_->Open(session.id, 1, Channel(name)).value();
    Mapping mapping = Mapping::MapWritable(opened.fd.get(), opened.reply.bytes).value();
    EXPECT_TRUE(table_->Mapped(session.id, opened.reply.segment, 1).ok());
    return mapping;
  }
  static void Write(const Mapping& memory, uint64_t seq) {
    layout::ChannelSlots(memory.data())[seq % kSlots].seq.store(2 * seq);
    std::memset(memory.data() + layout::ChannelDataOffset(kSlots) + seq % kSlots * layout::ChannelStride(kBytes), static_cast<int>(seq), kBytes);
    layout::ChannelHeaderAt(memory.data())->latest.store(seq);
  }
  uint64_t Rung() const {
    uint64_t count = 0;
    return read(table_->bell_fd(), &count, sizeof(count)) < 0 ? 0 : count;
  }
  void ExpectNothingLeft() { EXPECT_EQ(Df().channels() + Df().channel_bytes(), 0u); }

  std::unique_ptr<MutableMemory> table_;
};

uint32_t Followed(const Mapping& memory) { return layout::ChannelHeaderAt(memory.data())->followed.load(); }

TEST_F(MirrorTest, AChannelIsFollowedAsLongAsItsSourceLives) {
  const auto writer = NewSession();
  const Mapping memory = OpenWriter(*writer);
  EXPECT_TRUE(absl::IsNotFound(table_->Look("y").status()));
  EXPECT_EQ(Followed(memory), 0u);
  const uint64_t own = Df().channel_bytes();
  MutableMemory::Facts facts;
  auto one = table_->Follow("x", &facts).value(), two = table_->Follow("x", &facts).value();
  EXPECT_EQ(facts.incarnation, table_->Look("x")->incarnation);
  EXPECT_NE(facts.incarnation, 0u);
  EXPECT_EQ(Followed(memory), 1u);
  EXPECT_EQ(Df().channel_bytes(), own + 2 * kBytes);
  EXPECT_EQ(Df().channels(), 1u);
  one.reset();
  EXPECT_EQ(Followed(memory), 1u);
  two.reset();
  EXPECT_EQ(Followed(memory), 0u);
  EXPECT_EQ(Df().channel_bytes(), own);
  End(*writer);
  ExpectNothingLeft();
}

TEST_F(MirrorTest, TheMemoryStaysForWhoFollowsAndTheEndRingsTheBell) {
  const auto writer = NewSession();
  MutableMemory::Facts facts;
  std::shared_ptr<ChannelSource> source;
  {
    const Mapping memory = OpenWriter(*writer);
    source = table_->Follow("x", &facts).value();
    Write(memory, 1);
  }
  EXPECT_EQ(Rung(), 0u);
  End(*writer);
  EXPECT_EQ(Rung(), 1u);
  EXPECT_EQ(source->After(0).seq, 1u) << "what was written before the end";
  EXPECT_EQ(source->data(1)[kBytes - 1], 1);
  EXPECT_EQ(source->After(1).state, State::kClosed);
  EXPECT_TRUE(absl::IsNotFound(table_->Look("x").status()));
  source->Release();
  EXPECT_EQ(source->After(0).state, State::kReleased);
  source.reset();
  ExpectNothingLeft();
}

TEST_F(MirrorTest, StepsComeInTheirOrderUntilOneIsLostThenTheNewest) {
  const auto writer = NewSession();
  const Mapping memory = OpenWriter(*writer);
  MutableMemory::Facts facts;
  const auto source = table_->Follow("x", &facts).value();
  EXPECT_EQ(source->After(0).state, State::kNothing);
  for (uint64_t seq = 1; seq <= 10; ++seq) Write(memory, seq);
  EXPECT_EQ(source->After(9).seq, 10u);
  EXPECT_EQ(source->After(7).seq, 8u) << "the last that the writer has not begun to overwrite";
  EXPECT_EQ(source->After(6).seq, 10u) << "7 may be overwritten at any moment";
  EXPECT_EQ(source->After(0).seq, 10u);
  EXPECT_EQ(source->After(10).state, State::kNothing);
  EXPECT_EQ(source->After(11).state, State::kNothing);
  EXPECT_TRUE(source->IsWhole(10));
  layout::ChannelSlots(memory.data())[11 % kSlots].seq.store(2 * 11 - 1);
  EXPECT_FALSE(source->IsWhole(7));
}

TEST_F(MirrorTest, AWriterThatWritesNonsenseIsBelievedNothing) {
  const auto writer = NewSession();
  const Mapping memory = OpenWriter(*writer);
  MutableMemory::Facts facts;
  const auto source = table_->Follow("x", &facts).value();
  layout::ChannelHeader* header = layout::ChannelHeaderAt(memory.data());
  for (uint64_t newest : {stream::kMaxStep + 1, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{5}}) {  // 5: its slot shows another
    header->latest.store(newest);
    EXPECT_EQ(source->After(0).state, State::kNothing) << newest;
  }
  header->closed.store(1);
  EXPECT_EQ(source->After(0).state, State::kClosed) << "or its reader would wait for ever";
}

TEST_F(MirrorTest, AMirrorIsReadLikeAChannel) {
  const auto reader = NewSession();
  const MutableMemory::MirrorMemory memory = table_->MakeMirror(reader->id, 3, Facts(), "host:1").value();
  EXPECT_TRUE(memory.made);
  const MutableMemory::Opened opened = table_->Open(reader->id, 3, Reader("x")).value();
  EXPECT_STREQ(opened.reply.home, "host:1");
  EXPECT_FALSE(Mapping::MapWritable(opened.fd.get(), opened.reply.bytes).ok()) << "the node alone writes it";
  const Mapping mapping = Mapping::MapReadOnly(opened.fd.get(), opened.reply.bytes).value();
  const layout::ChannelHeader* header = layout::ChannelHeaderAt(static_cast<const void*>(mapping.data()));
  Mirror mirror(memory);
  EXPECT_EQ(mirror.After(0), 0u);
  EXPECT_EQ(mirror.After(9), 8u) << "the newest one there comes first";
  std::memset(mirror.Begin(9), 9, kBytes);
  EXPECT_EQ(header->latest.load(), 0u);
  EXPECT_EQ(layout::ChannelSlots(static_cast<const void*>(mapping.data()))[9 % kSlots].seq.load(), 17u);
  mirror.End();
  EXPECT_EQ(header->latest.load(), 9u);
  EXPECT_EQ(header->turns.load(), 1u);
  EXPECT_EQ(layout::ChannelSlots(static_cast<const void*>(mapping.data()))[9 % kSlots].seq.load(), 18u);
  EXPECT_EQ(mirror.After(20), 9u);
  mirror.Begin(13);
  mirror.Break();
  EXPECT_EQ(layout::ChannelSlots(static_cast<const void*>(mapping.data()))[13 % kSlots].seq.load(), 0u);
  EXPECT_TRUE(absl::IsNotFound(table_->Look("x").status())) << "it is not written here";
  EXPECT_FALSE(table_->Follow("x", std::make_unique<MutableMemory::Facts>().get()).ok());
}

TEST_F(MirrorTest, AMirrorGoesWithItsLastReader) {
  int over = 0;
  table_->OnMirrorOver([&over] { ++over; });
  const auto one = NewSession(), two = NewSession();
  MutableMemory::MirrorMemory first = table_->MakeMirror(one->id, 1, Facts(), "host:1").value();
  first.hold = nullptr;
  {
    const MutableMemory::MirrorMemory same = table_->MakeMirror(two->id, 1, Facts(), "host:1").value();
    EXPECT_FALSE(same.made);
    EXPECT_EQ(same.segment, first.segment);
  }
  EXPECT_EQ(Df().channels(), 1u);
  End(*one);
  EXPECT_FALSE(table_->EndMirrorIfOver(first.segment));
  EXPECT_EQ(over, 0);
  End(*two);
  EXPECT_GT(over, 0);
  EXPECT_TRUE(table_->IsMirrorOver(first.segment));
  EXPECT_TRUE(table_->EndMirrorIfOver(first.segment));
  ExpectNothingLeft();
}

TEST_F(MirrorTest, WhoWaitsForAMirrorKeepsItsMemoryThoughTheReaderDies) {
  const auto reader = NewSession();
  MutableMemory::MirrorMemory memory = table_->MakeMirror(reader->id, 1, Facts(), "host:1").value();
  End(*reader);
  table_->CloseMirror(memory.segment);
  EXPECT_EQ(layout::ChannelHeaderAt(memory.address)->closed.load(), 1u);
  memory.hold = nullptr;
  ExpectNothingLeft();
  EXPECT_TRUE(absl::IsUnavailable(table_->MakeMirror(reader->id, 2, Facts(), "host:1").status())) << "nothing is opened for the dead";
  ExpectNothingLeft();
}

TEST_F(MirrorTest, AWriterHereAndAnotherChannelThereTakeTheName) {
  const auto reader = NewSession(), writer = NewSession();
  const uint32_t first = table_->MakeMirror(reader->id, 1, Facts(77), "host:1")->segment;
  const uint32_t second = table_->MakeMirror(reader->id, 2, Facts(78), "host:1")->segment;
  EXPECT_NE(first, second);
  EXPECT_TRUE(table_->IsMirrorOver(first));
  EXPECT_FALSE(table_->IsMirrorOver(second));
  const Mapping memory = OpenWriter(*writer);
  EXPECT_TRUE(table_->IsMirrorOver(second));
  EXPECT_TRUE(table_->EndMirrorIfOver(first) && table_->EndMirrorIfOver(second));
  EXPECT_EQ(Df().channels(), 3u) << "the reader still has both mapped";
  EXPECT_TRUE(absl::IsAlreadyExists(table_->MakeMirror(reader->id, 3, Facts(79), "host:1").status()));
  End(*reader);
  EXPECT_EQ(Df().channels(), 1u);
}

TEST_F(MirrorTest, OneThatIsAwayIsNotOpened) {
  const auto reader = NewSession();
  Mirror mirror(table_->MakeMirror(reader->id, 1, Facts(), "host:1").value());
  mirror.SetAway(true);
  const absl::Status status = table_->Open(reader->id, 2, Reader("x")).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("host:1"));
  mirror.SetAway(false);
  EXPECT_TRUE(table_->Open(reader->id, 2, Reader("x")).ok());
}

TEST_F(MirrorTest, TheNextProcessFindsMirrorsThatAreRead) {
  const auto reader = NewSession();
  {
    Mirror mirror(table_->MakeMirror(reader->id, 5, Facts(), "host:1").value());
    mirror.Begin(3);
    mirror.End();
  }
  const auto dead = NewSession();
  MutableMemory::Facts unread = Facts(99);
  unread.spec.name = "unread";
  (void)table_->MakeMirror(dead->id, 1, unread, "host:1").value();
  store_->EndSession(dead->id);  // and the node dies before it says so to the mirror
  KillAndRestartAll();
  const std::vector<MutableMemory::MirrorMemory> found = table_->TakeMirrors();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].facts.incarnation, 77u);
  EXPECT_EQ(found[0].facts.newest, 3u);
  EXPECT_TRUE(Mirror(found[0]).IsOf(Facts()));
  EXPECT_FALSE(Mirror(found[0]).IsOf(Facts(78)));
  EXPECT_FALSE(table_->EndMirrorIfOver(found[0].segment));
  EXPECT_EQ(Df().channels(), 1u);
  table_->SessionEnded(reader->id);
  EXPECT_TRUE(table_->EndMirrorIfOver(found[0].segment));
  ExpectNothingLeft();
}

TEST_F(MirrorTest, TheNextProcessKnowsAChannelForTheSame) {
  const auto writer = NewSession();
  const Mapping memory = OpenWriter(*writer);
  MutableMemory::Facts before, after;
  (void)table_->Follow("x", &before).value().get();
  layout::ChannelHeaderAt(memory.data())->followed.store(1);
  KillAndRestartAll();
  EXPECT_EQ(Followed(memory), 0u) << "who followed is not known any more";
  const auto source = table_->Follow("x", &after).value();
  EXPECT_EQ(after.incarnation, before.incarnation);
  EXPECT_EQ(Followed(memory), 1u);
}

}  // namespace
}  // namespace penstock::server
