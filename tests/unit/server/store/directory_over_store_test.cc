// The directory's own code over the store: a cluster of one node.
#include <gmock/gmock.h>

#include "server/store/record_info.h"
#include "tests/unit/server/store/directory_fixture.h"
#include "tests/unit/server/store/one_node_directory.h"

namespace penstock::server {
namespace {

using directory::Outcome;

class DirectoryOverStoreTest : public DirectoryStoreTest {
 protected:
  void SetUp() override {
    DirectoryStoreTest::SetUp();
    session_ = NewSession();
    directory_node_.emplace(store_.get(), &etcd_);
    ASSERT_TRUE(directory_node_->Settle());
  }
  void TearDown() override { directory_node_.reset(); }

  OneNodeDirectory& Node() { return *directory_node_; }

  std::optional<OneNodeDirectory::Ended> Put(const std::string& name, char fill = 'x', directory::Conditions conditions = {}, bool keep = true) {
    const OpId op = Node().node().NextOp();
    CreateSpec spec = Spec(name, 1000);
    spec.keep = keep;
    Prepare(*session_, spec, op, fill, {.prepared_in = etcd_.term});
    return Node().Put(op, name, conditions);
  }
  // The node's process is killed; etcd sees the next one.
  void RestartNode() {
    directory_node_.reset();
    KillAndRestart();
    directory_node_.emplace(store_.get(), &etcd_);
  }
  std::string BytesByName(const std::string& name) {
    const auto held = store_->Hold(name, 0);
    return held.ok() ? std::string(held->data, held->info.nbytes()) : std::string(held.status().ToString());
  }
  void ExpectEmpty() {
    const v1::DfResponse df = Df();
    EXPECT_EQ(df.tensors() + df.drafts() + df.withheld() + df.retired() + df.block_bytes(), 0) << df.ShortDebugString();
  }

  EtcdOfOne etcd_;
  std::shared_ptr<Session> session_;
  std::optional<OneNodeDirectory> directory_node_;
};

TEST_F(DirectoryOverStoreTest, PutOverwriteDelete) {
  const auto first = Put("a", '1');
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->outcome, Outcome::kCommitted);
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, first->version.number);
  EXPECT_EQ(store_->Lookup("a", 0)->version_term, first->version.term);
  EXPECT_EQ(BytesByName("a"), std::string(1000, '1'));
  const auto second = Put("a", '2');
  EXPECT_GT(second->version, first->version);
  EXPECT_EQ(BytesByName("a"), std::string(1000, '2'));
  EXPECT_TRUE(Node().Settle());
  EXPECT_EQ(Df().tensors(), 1);
  EXPECT_EQ(Df().withheld(), 0);
  const auto found = Node().Lookup("a");
  EXPECT_EQ(found->status, directory::LookupStatus::kFound);
  EXPECT_EQ(ParseRecordInfo(found->info.info)->dtype(), static_cast<uint32_t>(DType::kU8));
  EXPECT_EQ(Node().Delete("a")->outcome, Outcome::kCommitted);
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  EXPECT_EQ(Node().Delete("a")->outcome, Outcome::kNotFound);
  const auto third = Put("a", '3');
  EXPECT_GT(third->version, second->version);
  EXPECT_EQ(Node().Delete("a")->outcome, Outcome::kCommitted);
  ExpectEmpty();
}

TEST_F(DirectoryOverStoreTest, ConditionThatFailsLeavesNothing) {
  ASSERT_EQ(Put("a", '1')->outcome, Outcome::kCommitted);
  EXPECT_EQ(Put("a", '2', {.if_absent = true})->outcome, Outcome::kConflict);
  EXPECT_EQ(BytesByName("a"), std::string(1000, '1'));
  EXPECT_EQ(Df().drafts(), 0);
  EXPECT_EQ(Node().Delete("a")->outcome, Outcome::kCommitted);
  ExpectEmpty();
}

TEST_F(DirectoryOverStoreTest, TensorsOutliveTheProcessAndWhatWasNotProposedIsQuarantined) {
  for (int i = 0; i < 50; ++i) ASSERT_EQ(Put("t/" + std::to_string(i), 'a')->outcome, Outcome::kCommitted);
  ASSERT_EQ(Put("t/7", 'b')->outcome, Outcome::kCommitted);
  ASSERT_EQ(Node().Delete("t/8")->outcome, Outcome::kCommitted);
  const OpId half = Node().node().NextOp();
  Prepare(*session_, Spec("half", 1000), half, 'h', {.prepared_in = etcd_.term});
  for (int restart = 0; restart < 3; ++restart) {
    RestartNode();
    EXPECT_EQ(BytesByName("t/7"), std::string(1000, 'b'));  // at once: no home needs to be asked
    ASSERT_TRUE(Node().Settle());
    EXPECT_EQ(Df().drafts(), 0);
    // The only home has lost its tables with its process: nobody can tell what became of the put. Never dropped, never served.
    EXPECT_EQ(StateOf("half", half), State::kQuarantined);
    EXPECT_EQ(Df().withheld(), 1);
    EXPECT_EQ(Df().tensors(), 49);
    EXPECT_EQ(Node().Lookup("t/7")->status, directory::LookupStatus::kFound);
    EXPECT_EQ(Node().Lookup("t/8")->status, directory::LookupStatus::kAbsent);
    EXPECT_EQ(Node().Lookup("half")->status, directory::LookupStatus::kAbsent);
  }
  session_ = NewSession();
  const uint64_t before = store_->Lookup("t/7", 0)->version_number;
  const auto next = Put("t/7", 'c');
  ASSERT_EQ(next->outcome, Outcome::kCommitted);
  EXPECT_GT(next->version.number, before);
  EXPECT_EQ(BytesByName("t/7"), std::string(1000, 'c'));
  for (int i = 0; i < 50; ++i) Node().Delete("t/" + std::to_string(i));
  Records().Drop("half", half);
  ExpectEmpty();
}

TEST_F(DirectoryOverStoreTest, ReturningNodeServesNothingBeforeItIsConfirmed) {
  ASSERT_EQ(Put("a", 'a')->outcome, Outcome::kCommitted);
  ASSERT_EQ(Put("b", 'b')->outcome, Outcome::kCommitted);
  const OpId open = Node().node().NextOp();
  Prepare(*session_, Spec("c", 10), open, 'c', {.prepared_in = etcd_.term});
  Node().NextView(/*since=*/etcd_.term + 1);
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("b", 0).status()));
  EXPECT_EQ(Df().withheld(), 2);
  EXPECT_EQ(Records().since(), etcd_.since);
  Node().node().Abandon(open);
  Records().Drop("c", open);
  ASSERT_TRUE(Node().Settle());
  EXPECT_EQ(BytesByName("a"), std::string(1000, 'a'));
  EXPECT_EQ(BytesByName("b"), std::string(1000, 'b'));
  EXPECT_EQ(Df().withheld(), 0);
  EXPECT_EQ(Df().tensors(), 2);
}

TEST_F(DirectoryOverStoreTest, EvictionGoesThroughTheHome) {
  ASSERT_EQ(Put("cache", 'a', {}, /*keep=*/false)->outcome, Outcome::kCommitted);
  const OpId op{Node().session(), 1};
  Node().node().Evict(etcd_.now, "cache", op);
  ASSERT_TRUE(Node().RunUntil([&] { return !Holds("cache", op); }));
  EXPECT_EQ(Node().Lookup("cache")->status, directory::LookupStatus::kAbsent);
  ExpectEmpty();
}

}  // namespace
}  // namespace penstock::server
