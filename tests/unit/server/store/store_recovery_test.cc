// A node process is killed; the next one recovers from the warden's memory.
#include <gmock/gmock.h>

#include <random>

#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

layout::Record* RecordAt(Store& store, WardenMemory& memory, layout::RecordRef ref) {
  const uint32_t segment = store.header()->chunk_segment[layout::ChunkOf(ref)].load();
  return reinterpret_cast<layout::Record*>(memory.segments.at(segment).mapping.data() + layout::ByteInChunk(ref));
}

TEST_F(StoreTest, TensorsAndVersionsSurvive) {
  auto session = NewSession();
  for (int i = 0; i < 1000; ++i) Put(*session, Spec("t/" + std::to_string(i % 500), 100 + i % 7)).value();
  const v1::DfResponse before = Df();
  KillAndRestart();
  const v1::DfResponse after = Df();
  EXPECT_EQ(after.tensors(), 500);
  EXPECT_EQ(after.tensor_bytes(), before.tensor_bytes());
  EXPECT_EQ(after.block_bytes(), before.block_bytes());
  EXPECT_EQ(store_->Lookup("t/7", 0)->version_number, 2);
  EXPECT_EQ(after.generation(), 2);
}

TEST_F(StoreTest, DeletedNamesDoNotGetOldVersionsAgain) {
  auto session = NewSession();
  for (int i = 0; i < 5; ++i) Put(*session, Spec("a", 8)).value();
  store_->Delete("a", 0).value();
  KillAndRestart();
  auto next = NewSession();
  EXPECT_GT(Put(*next, Spec("a", 8))->version_number, 5);
}

TEST_F(StoreTest, PinsOfTheTimeBeforeStillHold) {
  auto session = NewSession();
  const Published tensor = Put(*session, Spec("a", 5000)).value();
  Pin(*session, 3, tensor);
  store_->Delete("a", 0).value();
  EXPECT_EQ(Df().retired(), 1);
  KillAndRestart();
  EXPECT_EQ(Df().retired(), 1);
  EXPECT_EQ(Df().pins(), 1);
  Unpin(*session, 3);
  EXPECT_EQ(Df().retired(), 0);
  EXPECT_EQ(Df().block_bytes(), 0);
}

TEST_F(StoreTest, DraftOfALiveSessionCanBePublishedByTheNextNode) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 5000);
  spec.in_arena = false;
  spec.if_version = 0;
  const Placed draft = Reserve(*session, spec).value();
  KillAndRestart();
  auto again = store_->FindSession(session->id);
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(Df().drafts(), 1);
  ASSERT_TRUE(store_->Publish(*again, draft.record, draft.record_seq).ok());
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1);
  // The client asks a second time: the first answer may have been lost with the node.
  EXPECT_TRUE(store_->Publish(*again, draft.record, draft.record_seq).ok());
}

TEST_F(StoreTest, ExtentThatWasSealedBeforeIsReadyWhenAskedAgain) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 5000);
  spec.in_arena = false;
  const Placed draft = Reserve(*session, spec).value();
  KillAndRestart();
  EXPECT_TRUE(store_->SealExtent(session->id, draft.block.segment).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->SealExtent(session->id, draft.block.segment + 1000)));
}

TEST_F(StoreTest, RepeatedPutIsRecognised) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 100);
  spec.request_id = 77;
  spec.if_version = 0;
  const Published first = Put(*session, spec).value();
  KillAndRestart();
  auto again = store_->FindSession(session->id);
  const Placed repeated = Reserve(*again, spec).value();
  EXPECT_EQ(repeated.kind, Placed::Kind::kDone);
  EXPECT_EQ(store_->Publish(*again, repeated.record, repeated.record_seq - 1)->version_number, first.version_number);
}

TEST_F(StoreTest, DraftOfAStagedPutIsFreed) {
  auto session = NewSession();
  Reserve(*session, Spec("a", 5000)).value();
  KillAndRestart();
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Df().block_bytes(), 0);
}

TEST_F(StoreTest, PublishThatWasCutInTheMiddleIsCompleted) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 5000);
  spec.in_arena = false;
  const Placed draft = Reserve(*session, spec).value();
  RecordAt(*store_, memory_, draft.record)->state.store(static_cast<uint8_t>(layout::RecordState::kPublishing));
  KillAndRestart();
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1);
  EXPECT_EQ(Df().drafts(), 0);
}

// A name that another node has would be taken for nobody's.
TEST_F(StoreTest, NextNodeOfAClusterServesNoNamesBeforeItKnowsTheOthers) {
  auto session = NewSession();
  Put(*session, Spec("a", 100)).value();
  in_cluster_ = true;
  KillAndRestart();
  session = store_->Sessions().at(0);
  EXPECT_TRUE(absl::IsUnavailable(store_->Lookup("a", 0).status()));
  EXPECT_TRUE(absl::IsUnavailable(store_->Lookup("nobody's", 0).status()));
  EXPECT_TRUE(absl::IsUnavailable(Put(*session, Spec("b", 100)).status()));
  EXPECT_TRUE(absl::IsUnavailable(store_->Delete("a", 0).status()));
  EXPECT_EQ(store_->Lookup("a", 1)->version_number, 1) << "an exact version is nobody else's to change";
  store_->SetKnowsOthers();
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1);
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("b", 0).status())) << "nothing was changed meanwhile";
  EXPECT_EQ(Put(*session, Spec("b", 100))->version_number, 1);
}

// It was decided before, when names were served.
TEST_F(StoreTest, PublishThatWasCutInTheMiddleIsCompletedBeforeTheOthersAreKnown) {
  auto session = NewSession();
  CreateSpec spec = Spec("a", 5000);
  spec.in_arena = false;
  const Placed draft = Reserve(*session, spec).value();
  RecordAt(*store_, memory_, draft.record)->state.store(static_cast<uint8_t>(layout::RecordState::kPublishing));
  in_cluster_ = true;
  KillAndRestart();
  store_->SetKnowsOthers();
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1);
}

TEST_F(StoreTest, OlderOfTwoLiveVersionsIsRetired) {
  auto session = NewSession();
  const Published first = Put(*session, Spec("a", 100)).value();
  Pin(*session, 0, first);  // so that its record is not freed by the second put
  Put(*session, Spec("a", 200)).value();
  // As if the node had died between making version 2 visible and retiring version 1.
  layout::Record* old_record = RecordAt(*store_, memory_, first.record);
  old_record->seq.store(first.record_seq);
  old_record->state.store(static_cast<uint8_t>(layout::RecordState::kLive));
  KillAndRestart();
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 2);
  EXPECT_EQ(store_->Stat("a", 0)->nbytes(), 200);
  EXPECT_EQ(Df().tensors(), 1);
  EXPECT_EQ(Df().tensor_bytes(), 200);
  Unpin(*session, 0);
  EXPECT_EQ(Df().retired(), 0);
}

TEST_F(StoreTest, RandomHistoryIsTheSameAfterEachRestart) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  std::map<std::string, uint64_t> expected;  // name -> nbytes
  auto session = NewSession();
  for (int step = 0; step < 3000; ++step) {
    const std::string name = "n/" + std::to_string(random() % 100);
    const uint64_t nbytes = random() % 3 == 0 ? random() % 100 : random() % 20000;
    if (random() % 4 == 0) {
      EXPECT_EQ(store_->Delete(name, 0).ok(), expected.erase(name) == 1);
    } else {
      ASSERT_TRUE(Put(*session, Spec(name, nbytes)).ok());
      expected[name] = nbytes;
    }
    if (step % 500 == 499) {
      KillAndRestart();
      session = NewSession();
    }
  }
  uint64_t bytes = 0;
  for (const auto& [name, nbytes] : expected) {
    EXPECT_EQ(store_->Stat(name, 0)->nbytes(), nbytes) << name;
    bytes += nbytes;
  }
  EXPECT_EQ(Df().tensors(), expected.size());
  EXPECT_EQ(Df().tensor_bytes(), bytes);
  DeletePrefix("").value();
  EXPECT_EQ(Df().block_bytes(), 0);
}

}  // namespace
}  // namespace penstock::server
