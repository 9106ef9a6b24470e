// The life of a tensor in the store: drafts, versions, conditions, pins, names, bad input.
#include "server/store/store.h"

#include <gmock/gmock.h>

#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

using ::testing::HasSubstr;

TEST_F(StoreTest, DraftIsInvisibleUntilPublished) {
  auto session = NewSession();
  absl::StatusOr<Placed> draft = Reserve(*session, Spec("a", 100));
  ASSERT_TRUE(draft.ok()) << draft.status();
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  ASSERT_TRUE(store_->Publish(*session, draft->record, draft->record_seq).ok());
  EXPECT_TRUE(store_->Lookup("a", 0).ok());
}

TEST_F(StoreTest, VersionsGrowAlsoOverADelete) {
  auto session = NewSession();
  EXPECT_EQ(Put(*session, Spec("a", 8))->version_number, 1);
  EXPECT_EQ(Put(*session, Spec("a", 8))->version_number, 2);
  ASSERT_TRUE(store_->Delete("a", 0).ok());
  EXPECT_EQ(Put(*session, Spec("a", 8))->version_number, 3);
  EXPECT_EQ(Put(*session, Spec("b", 8))->version_number, 1);
}

TEST_F(StoreTest, CallersVersionMustBeLarger) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 8);
  spec.version = 10;
  EXPECT_EQ(Put(*session, spec)->version_number, 10);
  spec.version = 10;
  const absl::Status refused = Put(*session, spec).status();
  EXPECT_TRUE(absl::IsAborted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("not larger than 10"));
  EXPECT_EQ(Put(*session, Spec("a", 8))->version_number, 11);
}

TEST_F(StoreTest, IfAbsentAndIfVersion) {
  auto session = NewSession();
  CreateSpec absent = Spec("a", 8);
  absent.if_version = 0;
  ASSERT_TRUE(Put(*session, absent).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Put(*session, absent).status()));
  CreateSpec exact = Spec("a", 8);
  exact.if_version = 1;
  EXPECT_EQ(Put(*session, exact)->version_number, 2);
  EXPECT_TRUE(absl::IsAborted(Put(*session, exact).status()));
}

TEST_F(StoreTest, ConditionIsCheckedAgainWhenPublished) {
  auto one = NewSession();
  auto two = NewSession();
  CreateSpec absent = Spec("a", 8);
  absent.if_version = 0;
  absl::StatusOr<Placed> first = Reserve(*one, absent);
  absl::StatusOr<Placed> second = Reserve(*two, absent);
  ASSERT_TRUE(store_->Publish(*two, second->record, second->record_seq).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Publish(*one, first->record, first->record_seq).status()));
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().tensors(), 1);
}

TEST_F(StoreTest, DeleteOfAnotherVersionIsRefused) {
  auto session = NewSession();
  Put(*session, Spec("a", 8)).value();
  EXPECT_TRUE(absl::IsNotFound(store_->Delete("a", 7).status()));
  EXPECT_TRUE(store_->Delete("a", 1).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Delete("a", 0).status()));
}

TEST_F(StoreTest, PinnedBlockIsNotReusedWhileThePinLives) {
  auto writer = NewSession();
  auto reader = NewSession();
  const Published old = Put(*writer, Spec("a", 4096), '1').value();
  Pin(*reader, 5, old);
  v1::TensorInfo info = store_->Stat("a", 0).value();
  for (int i = 0; i < 3000; ++i) ASSERT_TRUE(Put(*writer, Spec("a", 4096), '2').ok());
  EXPECT_GE(Df().retired(), 1);
  SharedSegment segment;
  const UniqueFd fd = store_->SegmentDescriptor(reader->id, info.location().segment(), &segment);
  ASSERT_TRUE(fd);
  const Mapping view = Mapping::MapReadOnly(fd.get(), segment.bytes).value();
  EXPECT_EQ(std::string(view.data() + info.location().offset(), 4096), std::string(4096, '1'));
  Unpin(*reader, 5);
  EXPECT_EQ(Df().retired(), 0);
}

TEST_F(StoreTest, DeadSessionsPinsAndDraftsAreFreed) {
  auto writer = NewSession();
  auto dead = NewSession();
  const Published tensor = Put(*writer, Spec("a", 1000)).value();
  Pin(*dead, 0, tensor);
  Reserve(*dead, Spec("draft", 1000)).value();
  CreateSpec in_extent = Spec("large", 100000);
  in_extent.in_arena = false;
  Reserve(*dead, in_extent).value();
  ASSERT_TRUE(store_->Delete("a", 0).ok());
  EXPECT_EQ(Df().drafts(), 2);
  EXPECT_EQ(Df().retired(), 1);
  store_->EndSession(dead->id);
  const v1::DfResponse df = Df();
  EXPECT_EQ(df.drafts(), 0);
  EXPECT_EQ(df.retired(), 0);
  EXPECT_EQ(df.block_bytes(), 0);
  EXPECT_EQ(df.extent_bytes(), 0);
}

TEST_F(StoreTest, AnotherSessionsDraftCannotBePublishedOrAborted) {
  auto owner = NewSession();
  auto other = NewSession();
  absl::StatusOr<Placed> draft = Reserve(*owner, Spec("a", 10));
  EXPECT_TRUE(absl::IsNotFound(store_->Publish(*other, draft->record, draft->record_seq).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->Abort(*other, draft->record, draft->record_seq)));
  EXPECT_TRUE(absl::IsNotFound(store_->Abort(*owner, draft->record + 1, draft->record_seq)));
  EXPECT_TRUE(store_->Abort(*owner, draft->record, draft->record_seq).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Publish(*owner, draft->record, draft->record_seq).status()));
}

TEST_F(StoreTest, DraftLimitNamesItself) {
  auto session = NewSession();
  for (int i = 0; i < kMaxDrafts; ++i) ASSERT_TRUE(Reserve(*session, Spec("d", 8)).ok());
  const absl::Status refused = Reserve(*session, Spec("d", 8)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(std::to_string(kMaxDrafts) + " drafts"));
}

struct BadSpec {
  const char* what;
  void (*spoil)(CreateSpec&);
  const char* message;
};

TEST_F(StoreTest, BadInputNamesTheFieldAndChangesNothing) {
  auto session = NewSession();
  static const std::string long_name(600, 'n');
  static const std::string cut_metadata("\x05\x00\x05\x00xx", 6);
  const BadSpec bad[] = {
      {"empty name", [](CreateSpec& s) { s.name = ""; }, "name"},
      {"long name", [](CreateSpec& s) { s.name = long_name; }, "name"},
      {"dots", [](CreateSpec& s) { s.name = "a/../b"; }, "name"},
      {"reserved", [](CreateSpec& s) { s.name = ".penstock/x"; }, ".penstock/"},
      {"bad utf-8", [](CreateSpec& s) { s.name = "\xff\xfe"; }, "UTF-8"},
      {"dtype", [](CreateSpec& s) { s.dtype = static_cast<DType>(99); }, "dtype"},
      {"nbytes", [](CreateSpec& s) { s.nbytes = 9; }, "nbytes"},
      {"replicas", [](CreateSpec& s) { s.replicas = 2; }, "replicas"},
      {"ttl", [](CreateSpec& s) { s.ttl_ns = ~uint64_t{0}; }, "ttl"},
      {"metadata", [](CreateSpec& s) { s.metadata = cut_metadata; }, "metadata"},
  };
  for (const BadSpec& test : bad) {
    CreateSpec spec = Spec("good", 8);
    test.spoil(spec);
    const absl::Status status = store_->Reserve(*session, spec).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << test.what << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.message)) << test.what;
  }
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().tensors(), 0);
}

TEST_F(StoreTest, ListPagesByPrefixInOrder) {
  auto session = NewSession();
  for (int i = 0; i < 250; ++i) Put(*session, Spec("p/" + std::to_string(1000 + i), 8)).value();
  Put(*session, Spec("q", 8)).value();
  v1::ListRequest request;
  request.set_prefix("p/");
  request.set_limit(100);
  std::vector<std::string> names;
  while (true) {
    v1::ListResponse page;
    store_->List(request, 1 << 20, &page);
    for (const v1::TensorInfo& item : page.items()) names.push_back(item.name());
    if (!page.more()) break;
    request.set_after(names.back());
  }
  ASSERT_EQ(names.size(), 250);
  EXPECT_EQ(names.front(), "p/1000");
  EXPECT_EQ(names.back(), "p/1249");
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
}

TEST_F(StoreTest, DeletePrefixDeletesNothingElse) {
  auto session = NewSession();
  for (const char* name : {"a/1", "a/2", "ab", "b"}) Put(*session, Spec(name, 8)).value();
  EXPECT_EQ(DeletePrefix("a/").value(), 2);
  EXPECT_TRUE(store_->Lookup("ab", 0).ok());
  EXPECT_EQ(Df().tensors(), 2);
}

TEST_F(StoreTest, ExpiredTensorGoes) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 8);
  spec.ttl_ns = 1;
  Put(*session, spec).value();
  store_->Maintain();
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  EXPECT_EQ(Df().expirations(), 1);
}

TEST_F(StoreTest, EventsTellPutAndDeleteInOrder) {
  auto session = NewSession();
  v1::WatchRequest watch;
  watch.set_after_sequence(store_->last_event());
  watch.set_node_generation(generation_);
  watch.set_tensors_only(true);
  watch.set_prefix("a");
  Put(*session, Spec("a", 8)).value();
  Put(*session, Spec("b", 8)).value();
  store_->Delete("a", 0).value();
  v1::WatchResponse events;
  store_->Events(watch, &events);
  ASSERT_EQ(events.events_size(), 2);
  EXPECT_EQ(events.events(0).kind(), v1::Event::PUT);
  EXPECT_EQ(events.events(1).kind(), v1::Event::DELETE);
  EXPECT_EQ(events.events(1).info().name(), "a");
  EXPECT_EQ(events.events(0).info().shape(0), 8) << "the put's shape, though the tensor is gone";
}

TEST_F(StoreTest, SlowWatcherIsToldThatItLostEvents) {
  auto session = NewSession();
  v1::WatchRequest watch;
  watch.set_after_sequence(1);
  watch.set_node_generation(generation_);
  for (size_t i = 0; i < EventLog::kCapacity + 10; ++i) store_->LogEvent(v1::Event::WARNING, "x");
  v1::WatchResponse events;
  store_->Events(watch, &events);
  bool resync = false;
  for (const v1::Event& event : events.events()) resync |= event.kind() == v1::Event::RESYNC;
  EXPECT_TRUE(resync);
}

TEST_F(StoreTest, ZeroSizeTensorTakesNoMemory) {
  auto session = NewSession();
  ASSERT_TRUE(Put(*session, Spec("empty", 0)).ok());
  EXPECT_EQ(Df().block_bytes(), 0);
  EXPECT_EQ(store_->Stat("empty", 0)->nbytes(), 0);
}

TEST_F(StoreTest, MetadataComesBack) {
  auto session = NewSession();
  const std::string encoded = layout::EncodeMetadata({{"format", "pt"}, {"step", "7"}});
  CreateSpec spec = Spec("a", 8);
  spec.metadata = encoded;
  Put(*session, spec).value();
  const v1::TensorInfo info = store_->Stat("a", 0).value();
  EXPECT_EQ(info.metadata().at("step"), "7");
  EXPECT_EQ(info.metadata().size(), 2);
}

}  // namespace
}  // namespace penstock::server
