// What a home does with entries that lack copies, or that are to be elsewhere: one DirectoryNode, and nodes around it that do what they
// are told.
#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/directory/directory_node.h"

namespace penstock::server::directory {
namespace {

constexpr NodeId kSelf = 1;
constexpr uint32_t kPartitions = 16;

// Of the home, which holds nothing itself; what it is told to fetch, it does not get.
class NoRecords : public Records {
 public:
  std::optional<HeldRecord> Find(std::string_view, OpId) const override { return std::nullopt; }
  void SetState(std::string_view, OpId, RecordState, Version) override {}
  void Drop(std::string_view, OpId) override {}
  std::vector<HeldRecord> List(Partition, std::string_view, size_t) const override { return {}; }
  void ForEach(const std::function<void(const HeldRecord&)>&) const override {}
  Term since() const override { return 1; }
  void SetSince(Term) override {}
};

class HomeTest : public testing::Test, protected Environment {
 protected:
  // Members 1 (the home) .. `count`, that hold what Hold has said.
  void Begin(NodeId count) {
    view_.term = 1;
    for (NodeId id = 1; id <= count; ++id) {
      view_.members.push_back({.id = id, .session = 10 + id, .lease = id, .since = 1, .draining = false, .host = std::to_string(id), .zone = {}});
    }
    config_.self = kSelf;
    config_.session = 11;
    config_.partition_count = kPartitions;
    node_.emplace(config_, static_cast<Environment&>(*this), records_);
    Happens([&] { node_->OnView(now_, view_); });
    for (const auto& [node, free] : free_of_3000_) Report(node, free, 3000);
    Happens([&] { node_->OnLease(now_, kSelf, now_ + 1000 * kSecond); });
    Happens([&] { node_->OnActivations(now_, 1, std::vector<Activation>(kPartitions)); });
    Ticks(300);  // the history of nothing is lost: for a while it answers nothing
  }

  // A name, beginning so, of which node 1 of `count` will be the home.
  std::string NameAtHome(const std::string& begin, NodeId count) {
    View view;
    for (NodeId id = 1; id <= count; ++id) view.members.push_back({.id = id});
    const Assignment assignment(view, kPartitions);
    while (true) {
      std::string name = begin + std::to_string(++last_);
      if (assignment.Home(PartitionOf(name, kPartitions)) == kSelf) return name;
    }
  }
  void Hold(const std::string& name, const std::vector<NodeId>& nodes, uint8_t replicas, uint64_t nbytes = 100) {
    const OpId op{99, ++last_op_};
    for (const NodeId node : nodes) {
      held_[node].push_back({.name = name, .op = op, .version = {1, 1}, .prepared_in = 1, .state = RecordState::kLive, .nbytes = nbytes,
                             .replicas = replicas, .cache = false, .info = "i"});
    }
  }

  void Ticks(int count) {
    for (int i = 0; i < count; ++i) {
      now_ += 10 * kMillisecond;
      Happens([&] { node_->Tick(now_); });
    }
  }
  void Hears(NodeId from, Message message) {
    Happens([&] { node_->OnMessage(now_, from, std::move(message)); });
  }
  void Report(NodeId from, uint64_t free, uint64_t total) { Hears(from, LoadReport{free, total, 5}); }
  Entry EntryOf(const std::string& name) {
    Entry found;
    node_->ForEachEntry([&](const Entry& entry) {
      if (entry.name() == name) found = entry;
    });
    return found;
  }
  // The node has made the copy, or wants to leave.
  void Claim(NodeId node, const std::string& name, OpId op, Version version, bool leaving, Reason reason) {
    Resolve resolve{.session = 10 + node, .sequence = ++last_sequence_, .items = {}};
    resolve.items.push_back({.partition = PartitionOf(name, kPartitions), .term = 1, .name = name, .op = op, .version = version, .prepared_in = 1,
                             .question = 1, .leaving = leaving, .evicting = false, .reason = reason});
    later_.push_back([this, node, resolve] { node_->OnMessage(now_, node, resolve); });
  }

  // ---- Environment ----
  void Send(NodeId to, Message message) override {
    const auto hear = [this, to](Message answer) {
      later_.push_back([this, to, answer = std::move(answer)] { node_->OnMessage(now_, to, answer); });
    };
    if (const auto* ask = std::get_if<AnnounceAsk>(&message)) {
      for (const Partition p : ask->partitions) {
        AnnouncePart part{.view = ask->view, .partition = p, .last = true, .cut = false, .after = {}, .records = {}};
        for (const HeldRecord& record : held_[to]) {
          if (PartitionOf(record.name, kPartitions) == p) part.records.push_back(record);
        }
        std::sort(part.records.begin(), part.records.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
        hear(std::move(part));
      }
    } else if (const auto* push = std::get_if<Push>(&message)) {
      hear(PushAck{push->view, push->partition, push->chunk});
    } else if (const auto* replicate = std::get_if<Replicate>(&message)) {
      hear(ReplicateAck{replicate->partition, replicate->term, replicate->entry.stamp, std::string(replicate->entry.name())});
    } else if (const auto* pull = std::get_if<Pull>(&message)) {
      pulls_.emplace_back(to, *pull);
      if (copies_succeed_) Claim(to, pull->name, pull->op, {}, false, pull->reason);
    } else if (const auto* let_go = std::get_if<LetGo>(&message)) {
      let_go_.push_back(to);
      Claim(to, let_go->name, let_go->op, {1, 1}, true, 0);
    } else if (const auto* answer = std::get_if<MoveAnswer>(&message)) {
      answers_.push_back(*answer);
    } else if (const auto* done = std::get_if<PullDone>(&message)) {
      pull_answers_.push_back(*done);
    }
  }
  void ReadActivations(Term) override {}
  void Activate(Term view, const std::vector<ActivatePartition>&) override {
    later_.push_back([this, view] { node_->OnActivated(now_, view, true, false); });
  }
  void FinishOperation(OpId, Outcome, Version) override {}
  void FinishLookup(uint64_t, const std::vector<LookupResult>&, Time) override {}
  void FinishMove(uint64_t, const MoveAnswer&) override {}
  void Fetch(const Pull&) override {}
  void RecallCopy(std::string_view) override {}
  void OnNameEvent(const NameEvent& event) override { events_.push_back(event); }
  void OnHistoryLost(Partition) override {}

  template <class Event>
  void Happens(Event event) {
    event();
    while (!later_.empty()) {
      const auto next = std::move(later_.front());
      later_.erase(later_.begin());
      next();
    }
  }

  Config config_;
  View view_;
  NoRecords records_;
  Time now_ = kSecond;
  std::map<NodeId, std::vector<HeldRecord>> held_;
  bool copies_succeed_ = true;
  std::map<NodeId, uint64_t> free_of_3000_ = {{kSelf, 0}};  // so that the copies are made by those around it
  std::vector<std::pair<NodeId, Pull>> pulls_;
  std::vector<NodeId> let_go_;
  std::vector<MoveAnswer> answers_;
  std::vector<PullDone> pull_answers_;
  std::vector<NameEvent> events_;
  std::vector<std::function<void()>> later_;
  std::optional<DirectoryNode> node_;
  int last_ = 0;
  uint64_t last_op_ = 0, last_sequence_ = 0;
};

TEST_F(HomeTest, RepairsWhatHasOneCopyLeftBeforeAllElse) {
  for (int i = 0; i < 40; ++i) Hold(NameAtHome("a/", 5), {2, 3}, 3);
  for (int i = 0; i < 10; ++i) Hold(NameAtHome("z/", 5), {4}, 3);
  config_.pulls_at_once = 4;
  config_.work_per_tick = 7;  // many ticks for a pass
  Begin(5);
  Ticks(200);
  ASSERT_EQ(pulls_.size(), 60u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(pulls_[i].second.name[0], 'z') << i;
  EXPECT_EQ(node_->Counts().under_replicated, 0u);
  const Entry entry = EntryOf(pulls_[0].second.name);
  ASSERT_EQ(entry.holders.size(), 3u);
  EXPECT_EQ(UnpackReason(entry.WhyHolder(0)).kind, ReasonKind::kUnknown) << "the directory began anew with it";
  EXPECT_THAT(ReasonText(entry.WhyHolder(1)), testing::StartsWith("repair of a lost copy: other host"));
}

TEST_F(HomeTest, HasNoMoreCopiesUnderWayThanItMayAndGivesUpOnThoseThatAreSilent) {
  for (int i = 0; i < 20; ++i) Hold(NameAtHome("a/", 4), {2}, 2);
  config_.pulls_at_once = 4;
  copies_succeed_ = false;
  Begin(4);
  ASSERT_EQ(pulls_.size(), 4u);
  // A target that is still on it is waited for.
  for (int i = 0; i < 5; ++i) {
    Ticks(700);
    for (size_t k = 0; k < 4; ++k) Hears(pulls_[k].first, PullDone{.name = pulls_[k].second.name, .op = pulls_[k].second.op, .ok = false, .going = true, .busy = false});
  }
  EXPECT_EQ(pulls_.size(), 4u);
  copies_succeed_ = true;
  Ticks(1500);
  EXPECT_EQ(node_->Counts().under_replicated, 0u);
}

TEST_F(HomeTest, TellsWhatIsLostByNameAndCountsItUntilItIsPutAgain) {
  const std::string name = NameAtHome("a/", 4);
  Hold(name, {4}, 1);
  Begin(4);
  View without = view_;
  without.term = 2;
  without.members.pop_back();
  without.absent = {4};
  Happens([&] { node_->OnView(now_, without); });
  Happens([&] { node_->OnActivations(now_, 2, std::vector<Activation>(kPartitions)); });
  Ticks(300);
  ASSERT_FALSE(events_.empty());
  EXPECT_EQ(events_.back().kind, NameEventKind::kLost);
  EXPECT_EQ(events_.back().name, name);
  EXPECT_EQ(node_->Counts().lost, 1u);
  Propose propose{.op = {12, 1}, .term = 1, .first_term = 1, .since = 1, .finished_below = 1, .remove = false, .name = name, .conditions = {},
                  .info = {100, 1, false, "i"}, .holders = {2}, .reasons = {PackReason({.kind = ReasonKind::kPut})}};
  Hears(2, propose);
  propose.term = 2;  // whether or not its partition was touched by that view
  Hears(2, propose);
  Ticks(200);
  EXPECT_EQ(EntryOf(name).version.number, 2u);
  EXPECT_EQ(ReasonText(EntryOf(name).WhyHolder(0)), "put here by its client");
  EXPECT_EQ(node_->Counts().lost, 0u);
}

TEST_F(HomeTest, MovesATensorAndLetsTheFullestGo) {
  const std::string name = NameAtHome("a/", 5);
  Hold(name, {2, 3}, 2);
  Begin(5);
  Report(2, 900, 1000);
  Report(3, 200, 1000);
  Hears(4, Move{7, name, 5, false});
  Ticks(50);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].request, 7u);
  EXPECT_EQ(answers_[0].outcome, MoveOutcome::kDone);
  EXPECT_EQ(answers_[0].from, 3u);
  EXPECT_EQ(answers_[0].bytes, 100u);
  EXPECT_THAT(EntryOf(name).holders, testing::UnorderedElementsAre(2, 5));
  EXPECT_THAT(ReasonText(EntryOf(name).WhyHolder(1)), testing::StartsWith("moved here on request"));
  // Whoever asks again, because the answer was lost, gets the same one.
  Hears(4, Move{7, name, 5, false});
  Ticks(50);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[1].from, 3u);
  EXPECT_EQ(answers_[1].bytes, 100u);
  // Another request for the same finds it there.
  Hears(4, Move{8, name, 5, false});
  Ticks(50);
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[2].from, 0u);
  EXPECT_EQ(answers_[2].bytes, 0u);
  EXPECT_EQ(let_go_.size(), 1u);
  EXPECT_EQ(pulls_.size(), 1u);
}

TEST_F(HomeTest, ACopyLetsNobodyGoAndAMoveNeverLeavesTooFew) {
  const std::string name = NameAtHome("a/", 4);
  Hold(name, {2}, 1);
  Begin(4);
  Hears(4, Move{1, name, 3, true});
  Ticks(50);
  EXPECT_THAT(EntryOf(name).holders, testing::UnorderedElementsAre(2, 3));
  EXPECT_EQ(answers_.back().from, 0u);
  // It is there: then one of the others is not needed any more.
  Hears(4, Move{2, name, 3, false});
  Ticks(50);
  EXPECT_EQ(answers_.back().from, 2u);
  EXPECT_EQ(answers_.back().bytes, 0u);
  EXPECT_THAT(EntryOf(name).holders, testing::ElementsAre(3));
  Hears(4, Move{3, name, 3, false});
  Ticks(50);
  EXPECT_THAT(EntryOf(name).holders, testing::ElementsAre(3));
}

TEST_F(HomeTest, SaysWhyItDoesNotMove) {
  const std::string name = NameAtHome("a/", 4);
  Hold(name, {2}, 1);
  Begin(4);
  const auto outcome = [&](const Move& move) {
    Hears(4, move);
    Ticks(30);
    return answers_.empty() ? MoveOutcome::kElsewhere : answers_.back().outcome;
  };
  EXPECT_EQ(outcome({1, NameAtHome("none/", 4), 3, false}), MoveOutcome::kAbsent);
  EXPECT_EQ(outcome({2, name, 77, false}), MoveOutcome::kNoNode);
  Report(3, 50, 1000);
  EXPECT_EQ(outcome({3, name, 3, false}), MoveOutcome::kFull);
  copies_succeed_ = false;
  Hears(4, Move{4, name, 4, false});
  Hears(4, PullDone{.name = name, .op = EntryOf(name).op, .ok = false, .going = false, .busy = false});
  Ticks(5);
  EXPECT_EQ(answers_.back().outcome, MoveOutcome::kFailed);
  EXPECT_THAT(EntryOf(name).holders, testing::ElementsAre(2));
}

TEST_F(HomeTest, MovesFromTheFullestToTheEmptiestWhileNothingLacksCopies) {
  std::vector<std::string> names;
  for (int i = 0; i < 30; ++i) {
    names.push_back(NameAtHome("a/", 3));
    Hold(names.back(), {2}, 1);
  }
  free_of_3000_.clear();
  config_.rebalance_bytes = 500;
  config_.rebalance_after = 5 * kSecond;
  Begin(3);
  Report(2, 0, 3000);
  Report(3, 3000, 3000);
  Ticks(100);
  EXPECT_TRUE(pulls_.empty()) << "the view is too young";
  Ticks(400);
  EXPECT_FALSE(pulls_.empty());
  EXPECT_LE(pulls_.size(), 6u) << "its share of 1500 bytes, until it hears of the loads again";
  for (int round = 0; round < 20; ++round) {
    uint64_t at_three = 0;
    for (const std::string& name : names) at_three += EntryOf(name).HeldBy(3);
    Report(2, 100 * at_three, 3000);
    Report(3, 3000 - 100 * at_three, 3000);
    Ticks(150);
  }
  size_t at_three = 0;
  for (const std::string& name : names) {
    const Entry entry = EntryOf(name);
    ASSERT_EQ(entry.holders.size(), 1u);
    at_three += entry.HeldBy(3);
    if (!entry.HeldBy(3)) continue;
    EXPECT_THAT(ReasonText(entry.WhyHolder(0)), testing::StartsWith("taken over from a fuller node: other host"));
  }
  EXPECT_GE(at_three, 12u);
  EXPECT_LE(at_three, 15u) << "not the other way round";
}

TEST_F(HomeTest, DoesNotRebalanceWhileSomethingLacksACopyNorWhenItMayNot) {
  Hold(NameAtHome("a/", 3), {2}, 1);
  Hold(NameAtHome("b/", 3), {2}, 2);
  free_of_3000_ = {{1, 50}, {2, 0}, {3, 3000}};
  config_.rebalance_bytes = 10;
  copies_succeed_ = false;
  Begin(3);
  Ticks(1500);
  ASSERT_FALSE(pulls_.empty());
  for (const auto& [to, pull] : pulls_) EXPECT_EQ(UnpackReason(pull.reason).kind, ReasonKind::kRepair);
}

TEST_F(HomeTest, OffMeansOff) {
  Hold(NameAtHome("a/", 3), {2}, 1);
  config_.rebalance = false;
  free_of_3000_.clear();
  config_.rebalance_bytes = 10;
  Begin(3);
  Report(2, 0, 3000);
  Report(3, 3000, 3000);
  Ticks(1500);
  EXPECT_TRUE(pulls_.empty());
}

TEST_F(HomeTest, ANodeTakesFewTensorsAtATimeForEvennessOnly) {
  Begin(3);
  const auto pull = [&](uint64_t count, ReasonKind kind) {
    Hears(2, Pull{.name = "x" + std::to_string(count), .op = {50, count}, .version = {1, 1}, .view = 1, .info = {1, 1, false, ""}, .from = {2},
                  .reason = PackReason({.kind = kind})});
  };
  for (uint64_t i = 1; i <= 4; ++i) pull(i, ReasonKind::kRebalance);
  EXPECT_TRUE(pull_answers_.empty());
  pull(5, ReasonKind::kRebalance);
  ASSERT_EQ(pull_answers_.size(), 1u);
  EXPECT_TRUE(pull_answers_[0].busy);
  pull(6, ReasonKind::kRepair);
  EXPECT_EQ(pull_answers_.size(), 1u);
  Ticks(300);  // and it says that it is still at work
  EXPECT_TRUE(pull_answers_.back().going);
}

}  // namespace
}  // namespace penstock::server::directory
