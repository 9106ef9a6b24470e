// With a real etcd, which is stopped in the middle, and processes of one node that follow each other.
#include "server/membership/activations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_format.h"

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>

#include "proto/uuid_text.h"
#include "server/membership/directory_view.h"
#include "tests/unit/server/membership/etcd_server.h"

namespace penstock::server {
namespace {

using directory::Activation;
using directory::ActivatePartition;
using directory::Term;

constexpr uint64_t kClusterId = 99;
constexpr uint32_t kCount = 16;

std::string Uuid(char id) { return std::string(16, id); }
directory::NodeId IdOf(char id) { return 1000 + static_cast<uint8_t>(id); }

void Describe(char id, v1::Member* member) {
  member->set_id(Uuid(id));
  member->set_boot(IdOf(id));
}

v1::View ViewOf(uint64_t number, const std::string& members, const std::string& absent = "", uint64_t cluster_id = kClusterId) {
  v1::View view;
  view.set_number(number);
  view.set_cluster_id(cluster_id);
  for (const char id : members) Describe(id, view.add_members());
  for (const char id : absent) Describe(id, view.add_absent()->mutable_member());
  return view;
}

struct Answer {
  bool ok = false, retry = false;
  bool operator==(const Answer& other) const { return ok == other.ok && retry == other.retry; }
};
constexpr Answer kOk{true, false}, kOtherView{false, false}, kRetry{false, true};
std::ostream& operator<<(std::ostream& out, const Answer& answer) { return out << "{ok " << answer.ok << ", retry " << answer.retry << "}"; }

// One process of a node.
class Process {
 public:
  Process(const std::vector<std::string>& etcd, const std::string& cluster, char id, absl::Duration sweep_every = absl::Hours(1))
      : activations_({.etcd = etcd, .access = {}, .cluster = cluster, .self = Uuid(id), .node = IdOf(id), .partition_count = kCount, .patience = absl::Milliseconds(300),
                      .sweep_every = sweep_every},
                     {.read = [this](Term view, const std::vector<Activation>& last) { Note([&] { reads_.emplace_back(view, last); }); },
                      .activated = [this](Term view, bool ok, bool retry) { Note([&] { answers_.push_back({view, {ok, retry}}); }); },
                      .event = [this](const std::string& text) { Note([&] { events_ += text + "\n"; }); }}) {}

  Activations& activations() { return activations_; }
  Answer Activate(Term view, std::vector<ActivatePartition> partitions) {
    activations_.Activate(view, std::move(partitions));
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !answers_.empty(); })) {
      ADD_FAILURE() << "not answered";
      return {};
    }
    const auto [term, answer] = answers_.front();
    answers_.pop_front();
    EXPECT_EQ(term, view);
    return answer;
  }
  Answer ActivateInTheEnd(Term view, const std::vector<ActivatePartition>& partitions) {
    Answer answer = kRetry;
    EXPECT_TRUE(Eventually([&] { return !((answer = Activate(view, partitions)) == kRetry); }));
    return answer;
  }
  // As it is asked again and again, as HomeTakeover does.
  std::vector<Activation> Read(Term view) {
    std::unique_lock lock(mutex_);
    for (int attempt = 0; attempt < 40; ++attempt) {
      lock.unlock();
      activations_.Read(view);
      lock.lock();
      if (!changed_.wait_for(lock, std::chrono::milliseconds(500), [&] { return !reads_.empty(); })) continue;
      auto [term, last] = reads_.back();
      reads_.clear();
      EXPECT_EQ(term, view);
      return last;
    }
    ADD_FAILURE() << "not answered";
    return std::vector<Activation>(kCount);
  }
  std::string events() {
    std::lock_guard lock(mutex_);
    return events_;
  }
  size_t unread() {
    std::lock_guard lock(mutex_);
    return answers_.size() + reads_.size();
  }

 private:
  template <class What>
  void Note(What what) {
    {
      std::lock_guard lock(mutex_);
      what();
    }
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<Term, Answer>> answers_;
  std::deque<std::pair<Term, std::vector<Activation>>> reads_;
  std::string events_;
  Activations activations_;  // last: its thread uses the others
};

class ActivationsTest : public EtcdTest {
 protected:
  Process Start(char id, absl::Duration sweep_every = absl::Hours(1)) { return Process(etcd_->endpoints(), Cluster(), id, sweep_every); }
  int64_t PutView(const v1::View& view) { return Put("view", view.SerializeAsString()); }
  std::string ActiveKey(char id) { return absl::StrFormat("active/%016x", IdOf(id)); }
  ActiveMap InEtcd(char id) { return ActiveMap::Parse(Get(ActiveKey(id)).value(), kClusterId, kCount); }
  bool IsThere(char id) { return Get(ActiveKey(id)).mod_revision() != 0; }
};

TEST_F(ActivationsTest, WhatWasActivatedIsReadByAllWithTheLargestTerm) {
  Process a = Start('a'), b = Start('b');
  v1::View view = ViewOf(1, "ab");
  int64_t revision = PutView(view);
  for (Process* one : {&a, &b}) one->activations().OnView(view, revision);
  EXPECT_EQ(a.Read(1)[0].term, 0u) << "nothing yet";
  EXPECT_EQ(a.Activate(1, {{0, IdOf('b')}, {1, IdOf('b')}}), kOk);
  EXPECT_EQ(b.Activate(1, {{2, IdOf('a')}}), kOk);
  view = ViewOf(2, "ab");
  revision = PutView(view);
  for (Process* one : {&a, &b}) one->activations().OnView(view, revision);
  EXPECT_EQ(b.Activate(2, {{1, 0}}), kOk);
  for (Process* one : {&a, &b}) {
    const std::vector<Activation> last = one->Read(2);
    ASSERT_EQ(last.size(), kCount);
    EXPECT_EQ(last[0].term, 1u);
    EXPECT_EQ(last[0].home, IdOf('a'));
    EXPECT_EQ(last[0].backup, IdOf('b'));
    EXPECT_EQ(last[1].term, 2u);
    EXPECT_EQ(last[1].home, IdOf('b'));
    EXPECT_EQ(last[1].backup, 0u);
    EXPECT_EQ(last[2].home, IdOf('b'));
    EXPECT_EQ(last[3].home, 0u);
  }
  EXPECT_TRUE(InEtcd('a').Has(1, {{1, IdOf('b')}})) << "it was its home, whoever is now";
}

TEST_F(ActivationsTest, InAnotherViewNothingIsActivated) {
  Process a = Start('a');
  const v1::View first = ViewOf(1, "a");
  const int64_t revision = PutView(first);
  a.activations().OnView(first, revision);
  EXPECT_EQ(a.Activate(2, {{0, 0}}), kRetry) << "this node has not seen it yet";
  const int64_t next = PutView(ViewOf(2, "a"));
  EXPECT_EQ(a.Activate(1, {{0, 0}}), kOtherView) << "also when this node does not know it yet";
  EXPECT_FALSE(IsThere('a'));
  a.activations().OnView(ViewOf(2, "a"), next);
  EXPECT_EQ(a.Activate(1, {{0, 0}}), kOtherView);
  EXPECT_EQ(a.Activate(2, {{0, 0}}), kOk);
  Delete("view");
  EXPECT_EQ(a.Activate(2, {{1, 0}}), kOtherView);
  EXPECT_TRUE(InEtcd('a').Has(2, {{0, 0}}));
  EXPECT_FALSE(InEtcd('a').Has(2, {{1, 0}}));
}

TEST_F(ActivationsTest, AViewThatIsWrittenAgainIsStillThatView) {
  Process a = Start('a');
  const v1::View view = ViewOf(1, "a");
  a.activations().OnView(view, PutView(view));
  PutView(view);
  EXPECT_EQ(a.Activate(1, {{0, 0}}), kOk);
}

TEST_F(ActivationsTest, AProcessAddsToWhatAnEarlierOneOfTheNodeHasLeft) {
  const v1::View view = ViewOf(1, "a");
  const int64_t revision = PutView(view);
  Process first = Start('a');
  first.activations().OnView(view, revision);
  ASSERT_EQ(first.Activate(1, {{0, 0}}), kOk);
  Process second = Start('a');
  const v1::View next = ViewOf(2, "a");
  const int64_t next_revision = PutView(next);
  second.activations().OnView(next, next_revision);
  EXPECT_EQ(second.Activate(2, {{1, 0}}), kOk);
  EXPECT_TRUE(InEtcd('a').Has(1, {{0, 0}}));
  EXPECT_TRUE(InEtcd('a').Has(2, {{1, 0}}));
  // What the first one knows of the key is old: its call, if it came late, would change nothing; made anew it adds.
  first.activations().OnView(next, next_revision);
  EXPECT_EQ(first.Activate(2, {{2, 7}}), kOk);
  EXPECT_TRUE(InEtcd('a').Has(2, {{1, 0}, {2, 7}}));
  EXPECT_TRUE(InEtcd('a').Has(1, {{0, 0}}));
}

TEST_F(ActivationsTest, WhatWasActivatedIsOkAgainWhateverTheViewIsThen) {
  const v1::View view = ViewOf(1, "a");
  const int64_t revision = PutView(view);
  Process first = Start('a');
  first.activations().OnView(view, revision);
  ASSERT_EQ(first.Activate(1, {{0, 7}}), kOk);
  Process second = Start('a');  // knows nothing of it, as if the answer had been lost
  second.activations().OnView(view, revision);
  PutView(ViewOf(2, "a"));
  const int64_t before = Get(ActiveKey('a')).mod_revision();
  EXPECT_EQ(second.Activate(1, {{0, 7}}), kOk);
  EXPECT_EQ(second.Activate(1, {{0, 8}}), kOtherView) << "that was not it";
  EXPECT_EQ(Get(ActiveKey('a')).mod_revision(), before) << "nothing was written";
}

TEST_F(ActivationsTest, AKeyThatOthersHaveTakenAwayOrSpoiltIsWrittenAnew) {
  const v1::View view = ViewOf(1, "a");
  Process a = Start('a');
  a.activations().OnView(view, PutView(view));
  ASSERT_EQ(a.Activate(1, {{0, 0}}), kOk);
  Delete(ActiveKey('a'));
  EXPECT_EQ(a.Activate(1, {{1, 0}}), kOk);
  EXPECT_FALSE(InEtcd('a').Has(1, {{0, 0}})) << "what was taken away stays so";
  EXPECT_TRUE(InEtcd('a').Has(1, {{1, 0}}));
  Put(ActiveKey('a'), "garbage");
  Put("active/xyz", "garbage");
  Put("active/", "garbage");
  EXPECT_EQ(a.Read(1)[1].term, 0u);
  EXPECT_EQ(a.Activate(1, {{2, 0}}), kOk);
  EXPECT_EQ(a.Read(1)[2].home, IdOf('a'));
}

TEST_F(ActivationsTest, OfAnotherClusterNothingCounts) {
  ActiveMap old(kCount);
  old.Add(50, {{0, 0}});
  Put(ActiveKey('b'), old.Serialize(kClusterId + 1));
  Put(ActiveKey('a'), old.Serialize(kClusterId + 1));
  Process a = Start('a');
  const v1::View view = ViewOf(1, "ab");
  a.activations().OnView(view, PutView(view));
  EXPECT_EQ(a.Read(1)[0].term, 0u);
  EXPECT_EQ(a.Activate(1, {{0, 0}}), kOk);
  EXPECT_EQ(a.Read(1)[0].term, 1u);
  // The same number in another cluster.
  const v1::View other = ViewOf(1, "ab", "", kClusterId + 2);
  const int64_t revision = PutView(other);
  EXPECT_EQ(a.Activate(1, {{1, 0}}), kOtherView);
  a.activations().OnView(other, revision);
  a.activations().Activate(1, {{1, 0}});
  a.activations().Read(1);
  a.activations().Stop();
  EXPECT_EQ(a.unread(), 0u) << "it belongs to the first one";
  EXPECT_FALSE(InEtcd('a').Has(1, {{1, 0}}));
}

TEST_F(ActivationsTest, KeysOfNodesThatAreGoneStayAsLongAsSomebodyNeedsThem) {
  ActiveMap superseded(kCount), last(kCount), own(kCount);
  superseded.Add(1, {{0, 0}, {1, 0}});
  last.Add(2, {{1, 0}, {2, 0}});
  own.Add(3, {{0, 0}});
  Put(ActiveKey('x'), superseded.Serialize(kClusterId));
  Put(ActiveKey('y'), superseded.Serialize(kClusterId));
  Put(ActiveKey('z'), last.Serialize(kClusterId));
  Put(ActiveKey('w'), last.Serialize(kClusterId + 1));
  Put(ActiveKey('a'), own.Serialize(kClusterId));
  Put(ActiveKey('b'), superseded.Serialize(kClusterId));
  Process a = Start('a', absl::Milliseconds(20));
  const v1::View view = ViewOf(4, "ab", "y");
  a.activations().OnView(view, PutView(view));
  EXPECT_TRUE(Eventually([&] { return !IsThere('x') && !IsThere('w'); }));
  EXPECT_TRUE(IsThere('y')) << "it may come back";
  EXPECT_TRUE(IsThere('z')) << "nobody else knows where the history of partition 2 is";
  EXPECT_TRUE(IsThere('b'));
  ASSERT_EQ(a.Activate(4, {{1, 0}, {2, 0}}), kOk);
  EXPECT_TRUE(Eventually([&] { return !IsThere('z'); }));
  EXPECT_TRUE(IsThere('y') && IsThere('b') && IsThere('a'));
  EXPECT_EQ(a.Read(4)[2].term, 4u);
}

TEST_F(ActivationsTest, OnlyWhoIsFirstInItsViewTakesKeysAway) {
  ActiveMap superseded(kCount), own(kCount);
  superseded.Add(1, {{0, 0}});
  own.Add(3, {{0, 0}});
  Put(ActiveKey('x'), superseded.Serialize(kClusterId));
  Put(ActiveKey('b'), own.Serialize(kClusterId));
  Process b = Start('b', absl::Milliseconds(1));
  const v1::View view = ViewOf(4, "ab");
  b.activations().OnView(view, PutView(view));
  for (int i = 0; i < 20; ++i) (void)b.Read(4);  // much longer than it would wait
  EXPECT_TRUE(IsThere('x'));
  // Another view than the one it knows of: not its business either.
  Process a = Start('a', absl::Milliseconds(1));
  a.activations().OnView(view, 1);
  for (int i = 0; i < 20; ++i) (void)a.Read(4);
  EXPECT_TRUE(IsThere('x'));
  a.activations().OnView(view, Get("view").mod_revision());
  EXPECT_TRUE(Eventually([&] { return !IsThere('x'); }));
}

// An etcd of the test's own, which fails.
class FailingEtcdTest : public EtcdTest {
 protected:
  static void SetUpTestSuite() {}
  void SetUp() override {
    if (!EtcdServer::Installed()) GTEST_SKIP() << "needs etcd (deploy/install_deps test)";
  }
  void Use(int members) {
    failing_ = std::make_unique<EtcdServer>(members);
    client_ = std::make_unique<EtcdClient>(failing_->endpoints(), EtcdAccess());
  }
  std::unique_ptr<EtcdServer> failing_;
};

TEST_F(FailingEtcdTest, AnUnknownOutcomeIsToldAndMadeAgainItDoesNoHarm) {
  Use(1);
  Process a(failing_->endpoints(), Cluster(), 'a');
  const v1::View view = ViewOf(1, "a");
  a.activations().OnView(view, Put("view", view.SerializeAsString()));
  ASSERT_EQ(a.Activate(1, {{0, 0}}), kOk);
  failing_->Pause(0);  // it may have taken the call, and make it when it wakes up
  EXPECT_EQ(a.Activate(1, {{1, 7}}), kRetry);
  EXPECT_EQ(a.Activate(1, {{1, 7}}), kRetry);
  failing_->Resume(0);
  EXPECT_EQ(a.ActivateInTheEnd(1, {{1, 7}}), kOk);
  EXPECT_EQ(a.ActivateInTheEnd(1, {{2, 8}}), kOk);
  failing_->Kill(0);
  EXPECT_EQ(a.Activate(1, {{3, 9}}), kRetry);
  failing_->Start(0);
  failing_->AwaitHealthy();
  EXPECT_EQ(a.ActivateInTheEnd(1, {{3, 9}}), kOk);
  const std::vector<Activation> last = a.Read(1);
  for (uint32_t p = 0; p < 4; ++p) EXPECT_EQ(last[p].home, IdOf('a')) << p;
  EXPECT_EQ(last[2].backup, 8u);
  EXPECT_EQ(last[4].term, 0u);
  EXPECT_EQ(a.events(), "") << "membership tells that etcd is away";
}

TEST_F(FailingEtcdTest, AnUnknownOutcomeThatAnotherViewFollowsIsDecidedByEtcd) {
  Use(1);
  Process a(failing_->endpoints(), Cluster(), 'a');
  const v1::View view = ViewOf(1, "a");
  a.activations().OnView(view, Put("view", view.SerializeAsString()));
  ASSERT_EQ(a.Activate(1, {{0, 0}}), kOk);
  failing_->Pause(0);
  EXPECT_EQ(a.Activate(1, {{1, 7}}), kRetry);
  failing_->Resume(0);
  failing_->AwaitHealthy();
  Put("view", ViewOf(2, "a").SerializeAsString());
  const Answer answer = a.ActivateInTheEnd(1, {{1, 7}});
  const bool made = a.Read(1)[1].term == 1;
  EXPECT_EQ(answer, made ? kOk : kOtherView);
}

TEST_F(FailingEtcdTest, ItStopsWhileEtcdIsAway) {
  Use(1);
  Process a(failing_->endpoints(), Cluster(), 'a');
  const v1::View view = ViewOf(1, "a");
  a.activations().OnView(view, Put("view", view.SerializeAsString()));
  failing_->Pause(0);
  a.activations().Activate(1, {{0, 0}});
  a.activations().Read(1);
  const absl::Time began = absl::Now();
  a.activations().Stop();
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  EXPECT_LE(a.unread(), 1u);
  failing_->Resume(0);
}

TEST_F(FailingEtcdTest, ThreeMembersOfWhomOneAfterTheOtherDies) {
  Use(3);
  Process a(failing_->endpoints(), Cluster(), 'a'), b(failing_->endpoints(), Cluster(), 'b');
  Term term = 0;
  for (uint32_t member = 0; member < 3; ++member) {
    const v1::View view = ViewOf(++term, "ab");
    int64_t revision = 0;
    ASSERT_TRUE(Eventually([&] {
      etcdserverpb::TxnRequest txn;
      PutOnSuccess(&txn, Key("view"), view.SerializeAsString());
      const auto response = client_->Txn(txn, absl::Seconds(1));
      if (response.ok()) revision = Get("view").mod_revision();
      return response.ok();
    }));
    for (Process* one : {&a, &b}) one->activations().OnView(view, revision);
    failing_->Kill(member);
    EXPECT_EQ(a.ActivateInTheEnd(term, {{2 * member, IdOf('b')}}), kOk);
    EXPECT_EQ(b.ActivateInTheEnd(term, {{2 * member + 1, IdOf('a')}}), kOk);
    failing_->Start(member);
    failing_->AwaitHealthy();
  }
  const std::vector<Activation> last = b.Read(term);
  for (uint32_t p = 0; p < 6; ++p) {
    EXPECT_EQ(last[p].term, 1 + p / 2);
    EXPECT_EQ(last[p].home, IdOf(p % 2 == 0 ? 'a' : 'b'));
  }
}

}  // namespace
}  // namespace penstock::server
