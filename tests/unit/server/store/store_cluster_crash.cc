// The node's process is killed (SIGKILL) at each step of what the directory does with a record; the next process recovers.
// tests/fault/test_directory_records.py runs one test at a time, with PENSTOCK_FAULT_DIR set.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/unit/server/store/directory_fixture.h"
#include "tests/unit/server/store/one_node_directory.h"

namespace penstock::server {
namespace {

constexpr directory::OpId kOne{77, 1};
constexpr directory::OpId kTwo{77, 2};

class DirectoryCrash : public DirectoryTest<StoreTest> {
 protected:
  void SetUp() override {
    ASSERT_NE(getenv("PENSTOCK_FAULT_DIR"), nullptr) << "tests/fault/test_directory_records.py sets it";
    DirectoryTest<StoreTest>::SetUp();
    session_ = NewSession();
  }
  // In a process of its own, which shares the memory and dies at the point; then the next node's process.
  template <typename Act>
  void KilledAt(const std::string& point, Act act) {
    const std::string armed = std::string(getenv("PENSTOCK_FAULT_DIR")) + "/" + point;
    std::ofstream(armed) << "kill";
    store_->work().Stop();  // a fork must not find it with the lock
    const pid_t child = fork();
    if (child == 0) {
      act();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << point << " was not reached";
    KillAndRestart();
  }
  CreateSpec InExtent(std::string_view name, uint64_t nbytes) {
    CreateSpec spec = Spec(name, nbytes);
    spec.in_arena = false;
    return spec;
  }
  void ExpectNothingAfterDrops() {
    for (const directory::OpId op : {kOne, kTwo}) Records().Drop("a", op);
    const v1::DfResponse df = Df();
    EXPECT_EQ(df.tensors() + df.drafts() + df.withheld() + df.retired() + df.block_bytes() + df.tensor_bytes() + df.draft_bytes() + df.withheld_bytes(), 0)
        << df.ShortDebugString();
  }

  std::shared_ptr<Session> session_;
};

TEST_F(DirectoryCrash, node_directory_preparing) {
  CreateSpec spec = InExtent("a", 5000);
  spec.judged_later = true;
  spec.if_version = 0;
  spec.version = 9;
  const Placed placed = Reserve(*session_, spec).value();
  ASSERT_TRUE(store_->TakeDraft(*session_, placed.record, placed.record_seq).ok());
  KilledAt("node.directory.preparing", [&] { (void)store_->Prepare(placed.record, {.op = kOne, .prepared_in = 4}); });
  EXPECT_FALSE(Holds("a", kOne));
  const auto again = store_->FindSession(session_->id);
  const Store::TakenDraft taken = store_->TakeDraft(*again, placed.record, placed.record_seq).value();  // it is the draft that it was
  EXPECT_EQ(taken.spec.if_version(), 0u);
  EXPECT_EQ(taken.spec.version(), 9u);
  EXPECT_EQ(taken.spec.ttl_ns(), 0u);
  ASSERT_TRUE(store_->Prepare(placed.record, {.op = kTwo, .prepared_in = 4}).ok());
  ExpectNothingAfterDrops();
}

TEST_F(DirectoryCrash, node_directory_prepared) {
  CreateSpec spec = InExtent("a", 5000);
  spec.judged_later = true;
  spec.if_version = 3;
  spec.version = 9;
  spec.ttl_ns = uint64_t{3600} * 1'000'000'000;
  const Placed placed = Reserve(*session_, spec).value();
  ASSERT_TRUE(store_->TakeDraft(*session_, placed.record, placed.record_seq).ok());
  KilledAt("node.directory.prepared", [&] { (void)store_->Prepare(placed.record, {.op = kOne, .prepared_in = 4}); });
  const directory::HeldRecord record = Records().Find("a", kOne).value();
  EXPECT_EQ(record.state, State::kPrepared);
  EXPECT_EQ(record.prepared_in, 4u);
  EXPECT_EQ(record.version, Version{});
  Set("a", kOne, State::kLive, {2, 2});
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 2u);
  EXPECT_NEAR(store_->Lookup("a", 0)->created_ns, absl::GetCurrentTimeNanos(), 60e9);
  EXPECT_NEAR(store_->Stat("a", 0)->expires_ns(), absl::GetCurrentTimeNanos() + 3600e9, 60e9);
  ExpectNothingAfterDrops();
}

TEST_F(DirectoryCrash, node_directory_version) {
  Prepare(*session_, Spec("a", 100), kOne);
  KilledAt("node.directory.version", [&] { Set("a", kOne, State::kLive, {2, 2}); });
  EXPECT_EQ(StateOf("a", kOne), State::kPrepared);
  EXPECT_EQ(Records().Find("a", kOne)->version, Version{});
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  ExpectNothingAfterDrops();
}

// Behind the store that decides, at whatever step: it is live and the one in the index; the one before is for its home to judge.
class BecomesLive : public DirectoryCrash {
 protected:
  void DiesAt(const std::string& point) {
    PutLive(*session_, Spec("a", 100), kOne, {1, 1}, 'o');
    CreateSpec spec = Spec("a", 200);
    spec.ttl_ns = uint64_t{3600} * 1'000'000'000;
    Prepare(*session_, spec, kTwo, 'n');
    KilledAt(point, [&] { Set("a", kTwo, State::kLive, {1, 2}); });
    EXPECT_EQ(StateOf("a", kTwo), State::kLive);
    EXPECT_EQ(StateOf("a", kOne), State::kUnconfirmed);
    EXPECT_EQ(store_->Lookup("a", 0)->version_number, 2u);
    EXPECT_EQ(store_->Hold("a", 0)->data[0], 'n');
    EXPECT_NEAR(store_->Stat("a", 0)->expires_ns(), absl::GetCurrentTimeNanos() + 3600e9, 60e9);
    EXPECT_EQ(Df().withheld(), 1);
    Records().Drop("a", kOne);
    EXPECT_EQ(Df().tensors(), 1);
    EXPECT_EQ(Df().tensor_bytes(), 200);
    EXPECT_EQ(Df().drafts() + Df().withheld(), 0);
    ExpectNothingAfterDrops();
  }
};
TEST_F(BecomesLive, node_directory_live) { DiesAt("node.directory.live"); }
TEST_F(BecomesLive, node_directory_leased) { DiesAt("node.directory.leased"); }
TEST_F(BecomesLive, node_directory_published) { DiesAt("node.directory.published"); }
TEST_F(BecomesLive, node_directory_replaced) { DiesAt("node.directory.replaced"); }

TEST_F(DirectoryCrash, node_directory_unleased) {
  CreateSpec spec = Spec("a", 100);
  spec.ttl_ns = uint64_t{3600} * 1'000'000'000;
  PutLive(*session_, spec, kOne, {1, 1});
  const layout::RecordRef ref = store_->Lookup("a", 0)->record;
  const uint64_t expires = RecordAt(ref)->expires_ns;
  KilledAt("node.directory.unleased", [&] { Set("a", kOne, State::kSuperseded, {1, 1}); });
  EXPECT_EQ(StateOf("a", kOne), State::kLive);  // nobody was told that it stopped
  EXPECT_EQ(store_->Lookup("a", 0)->version_number, 1u);
  EXPECT_EQ(RecordAt(ref)->expires_ns, expires);
  ExpectNothingAfterDrops();
}

TEST_F(DirectoryCrash, node_directory_aside) {
  PutLive(*session_, Spec("a", 100), kOne, {1, 1});
  KilledAt("node.directory.aside", [&] { Set("a", kOne, State::kSuperseded, {1, 1}); });
  EXPECT_EQ(StateOf("a", kOne), State::kSuperseded);
  EXPECT_TRUE(absl::IsNotFound(store_->Lookup("a", 0).status()));
  EXPECT_TRUE(store_->Lookup("a", 1).ok());
  EXPECT_EQ(Df().withheld(), 1);
  ExpectNothingAfterDrops();
}

TEST_F(DirectoryCrash, node_directory_dropping) {
  PutLive(*session_, Spec("a", 100), kOne, {1, 1});
  Set("a", kOne, State::kSuperseded, {1, 1});
  KilledAt("node.directory.dropping", [&] { Records().Drop("a", kOne); });
  EXPECT_EQ(StateOf("a", kOne), State::kSuperseded);
  ExpectNothingAfterDrops();
}

TEST_F(DirectoryCrash, node_retire_even) {
  for (const bool was_live : {false, true}) {
    Prepare(*session_, Spec("a", 100), kOne);
    if (was_live) Set("a", kOne, State::kLive, {1, 1});
    KilledAt("node.retire.even", [&] { Records().Drop("a", kOne); });
    session_ = NewSession();
    EXPECT_EQ(Holds("a", kOne), !was_live) << was_live;  // an even sequence says nothing of what never was live
    ExpectNothingAfterDrops();
  }
}

// The work thread adopts, and a forked child has none: so there a whole node process begins.
TEST_F(DirectoryCrash, node_adopt_live) {
  PutLive(*session_, Spec("b", 100), kTwo, {1, 1});  // now there is an arena
  PutLive(*session_, InExtent("a", 100000), kOne, {1, 1}, 'e');
  KilledAt("node.adopt.live", [&] {
    (void)store_.release();
    Start();
    store_->EndSession(session_->id);
    while (true) {
      store_->Maintain();
      store_->WaitForChange(store_->change_epoch(), absl::Milliseconds(10));
    }
  });
  EXPECT_EQ(StateOf("a", kOne), State::kLive);
  EXPECT_EQ(BytesOf("a", kOne), std::string(100000, 'e'));
  EXPECT_EQ(Df().tensors(), 2);
  EXPECT_EQ(Df().tensor_bytes(), 100100);
  Records().Drop("b", kTwo);
  ExpectNothingAfterDrops();
}

// A node that was away dies while it notes that: the next process must note it again, for all.
TEST_F(DirectoryCrash, a_return_is_noted_whole) {
  EtcdOfOne etcd;
  std::optional<OneNodeDirectory> node;
  node.emplace(store_.get(), &etcd);
  ASSERT_TRUE(node->Settle());
  for (int i = 0; i < 5; ++i) {
    const OpId op = node->node().NextOp();
    const std::string name = "t/" + std::to_string(i);
    Prepare(*session_, Spec(name, 100), op, 'x', {.prepared_in = etcd.term});
    ASSERT_TRUE(node->Put(op, name).has_value());
  }
  KilledAt("node.directory.aside", [&] { node->NextView(/*since=*/etcd.term + 1); });
  node.reset();
  EXPECT_EQ(Df().withheld(), 1);
  EXPECT_EQ(Df().tensors(), 4);
  etcd.since = ++etcd.term;  // what the child's view said
  node.emplace(store_.get(), &etcd);
  EXPECT_EQ(Df().withheld(), 5);
  EXPECT_EQ(Df().tensors(), 0);
}

}  // namespace
}  // namespace penstock::server
