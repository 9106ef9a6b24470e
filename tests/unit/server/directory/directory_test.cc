#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/directory/entry.h"
#include "server/directory/finished_operations.h"
#include "server/directory/placement.h"
#include "server/directory/view.h"

namespace penstock::server::directory {
namespace {

View ViewOf(std::initializer_list<NodeId> nodes) {
  View view;
  view.term = 1;
  for (const NodeId node : nodes) view.members.push_back({.id = node, .session = node + 1000, .host = std::to_string(node)});
  return view;
}

TEST(DirectorySources, HaveNoClockThreadOrSocket) {
  const std::regex forbidden(
      R"(#\s*include\s*[<"](thread|mutex|condition_variable|chrono|ctime|time\.h|random|unistd\.h|sys/.*|netinet/.*|)"
      R"(absl/time/.*|absl/synchronization/.*|grpc.*|ucp/.*|ucs/.*)[>"])");
  size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(PENSTOCK_DIRECTORY_SOURCES)) {
    if (file.path().extension() != ".h" && file.path().extension() != ".cc") continue;
    ++files;
    std::stringstream text;
    text << std::ifstream(file.path()).rdbuf();
    std::smatch match;
    const std::string content = text.str();
    EXPECT_FALSE(std::regex_search(content, match, forbidden)) << file.path() << ": " << match.str();
  }
  EXPECT_GE(files, 20u);
}

TEST(Assignment, SpreadsPartitionsAndMovesOnlyThoseOfALeaver) {
  const Assignment before(ViewOf({11, 22, 33, 44}), 4096), after(ViewOf({11, 22, 44}), 4096);
  std::map<NodeId, int> homes;
  for (Partition p = 0; p < 4096; ++p) {
    ++homes[before.Home(p)];
    EXPECT_NE(before.Home(p), before.Backup(p));
    if (before.Home(p) != 33) {
      EXPECT_EQ(after.Home(p), before.Home(p));
    } else {
      EXPECT_EQ(after.Home(p), before.Backup(p));
    }
  }
  for (const auto& [node, count] : homes) EXPECT_NEAR(count, 1024, 150) << node;
}

TEST(Assignment, LeavesDrainingNodesOutUnlessThereIsNobodyElse) {
  View view = ViewOf({11, 22});
  view.members[0].draining = true;
  const Assignment one(view, 64);
  for (Partition p = 0; p < 64; ++p) {
    EXPECT_EQ(one.Home(p), 22u);
    EXPECT_EQ(one.Backup(p), 0u);
  }
  view.members[1].draining = true;
  EXPECT_NE(Assignment(view, 64).Backup(0), 0u);
  EXPECT_EQ(Assignment(View(), 64).Home(0), 0u);
}

TEST(PartitionOf, IsTheSameInEveryBuild) {
  EXPECT_EQ(PartitionOf("", 4096), PartitionOf("", 4096));
  std::set<Partition> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(PartitionOf("model/layer" + std::to_string(i), 4096));
  EXPECT_GT(seen.size(), 800u);
}

Entry MakeEntry(std::string_view name, uint64_t change, bool deleted = false, uint64_t number = 1) {
  Entry entry;
  entry.SetText(name, "info");
  entry.stamp = {1, change};
  entry.version = {1, number};
  entry.deleted = deleted;
  return entry;
}

TEST(EntryTable, TheLargerStampWins) {
  EntryTable table;
  EXPECT_TRUE(table.Put(MakeEntry("a", 5)));
  EXPECT_FALSE(table.Put(MakeEntry("a", 4, true)));
  EXPECT_FALSE(table.Find("a")->deleted);
  EXPECT_TRUE(table.Put(MakeEntry("a", 6, true)));
  EXPECT_TRUE(table.Find("a")->deleted);
  EXPECT_EQ(table.tombstones(), 1u);
  EXPECT_TRUE(table.Put(MakeEntry("a", 7)));
  EXPECT_EQ(table.tombstones(), 0u);
  EXPECT_EQ(table.Find("a")->info(), "info");
}

TEST(EntryTable, GoesOnAfterAName) {
  EntryTable table;
  for (const char* name : {"b", "a", "c"}) table.Put(MakeEntry(name, 1));
  EXPECT_EQ(table.Next("")->name(), "a");
  EXPECT_EQ(table.Next("a")->name(), "b");
  EXPECT_EQ(table.Next("a", true)->name(), "a");
  EXPECT_EQ(table.Next("c"), nullptr);
}

TEST(EntryTable, CollectsOldTombstonesAndTellsTheirLargestNumber) {
  EntryTable table;
  table.Put(MakeEntry("a", 1, true, 8));
  table.Put(MakeEntry("b", 2, true, 9));
  table.Put(MakeEntry("c", 3));
  EXPECT_EQ(table.Collect({1, 1}), 8u);
  EXPECT_EQ(table.Find("a"), nullptr);
  EXPECT_NE(table.Find("b"), nullptr);
  EXPECT_EQ(table.tombstones(), 1u);
}

TEST(FinishedOperations, RemembersAboveTheWindow) {
  FinishedOperations finished;
  finished.Remember({7, 3}, {Outcome::kCommitted, {1, 2}});
  finished.Remember({7, 5}, {Outcome::kConflict, {}});
  EXPECT_EQ(finished.Find({7, 3})->version.number, 2u);
  finished.ForgetBelow(7, 4);
  EXPECT_FALSE(finished.Find({7, 3}));
  EXPECT_TRUE(finished.IsForgotten({7, 3}));
  EXPECT_TRUE(finished.Find({7, 5}));
  EXPECT_FALSE(finished.IsForgotten({8, 1}));
}

TEST(Placement, PrefersOtherPlacesAndSpaceAndSaysWhy) {
  View view = ViewOf({1, 2, 3, 4});
  view.members[0].zone = view.members[1].zone = "east";
  view.members[2].zone = view.members[3].zone = "west";
  Placement placement;
  placement.OnView(view, 0);
  const Time later = Placement::kRampUp;
  placement.Report(3, {.free_bytes = 10, .total_bytes = 100, .busy = 0}, later);
  placement.Report(4, {.free_bytes = 90, .total_bytes = 100, .busy = 0}, later);
  auto choices = placement.Choose(view, {1}, 5, 3, later);
  ASSERT_EQ(choices.size(), 3u);
  EXPECT_EQ(choices[0].node, 4u);
  EXPECT_EQ(ReasonText(ReasonFor(ReasonKind::kReplica, PackReason(choices[0].reason))), "replica: other host, other zone, 85 % free, 0 % busy");
  placement.Suspect(4, later);
  choices = placement.Choose(view, {1}, 5, 1, later);
  EXPECT_EQ(choices[0].node, 3u);
  EXPECT_EQ(placement.Choose(view, {1}, 50, 3, later).size(), 2u) << "node 3 is full";
  placement.Trust(4);
  EXPECT_EQ(placement.Choose(view, {1}, 5, 1, later)[0].node, 4u);
  view.members[3].draining = true;
  EXPECT_EQ(placement.Choose(view, {1}, 5, 1, later)[0].node, 3u);
}

TEST(Placement, FindsTheTwoNodesThatAreMostUnlike) {
  View view = ViewOf({1, 2, 3});
  Placement placement;
  placement.OnView(view, 0);
  EXPECT_FALSE(placement.MostUneven(view, 0.1, 10)) << "nobody has reported";
  placement.Report(1, {.free_bytes = 200, .total_bytes = 1000, .busy = 0}, 0);
  placement.Report(2, {.free_bytes = 600, .total_bytes = 1000, .busy = 0}, 0);
  placement.Report(3, {.free_bytes = 2000, .total_bytes = 2000, .busy = 0}, 0);
  const auto uneven = placement.MostUneven(view, 0.1, 10);
  ASSERT_TRUE(uneven);
  EXPECT_EQ(uneven->fuller, 1u);
  EXPECT_EQ(uneven->emptier, 3u);
  EXPECT_EQ(uneven->bytes, 400u);
  EXPECT_FALSE(placement.MostUneven(view, 0.8, 10));
  EXPECT_FALSE(placement.MostUneven(view, 0.1, 800));
  view.members[2].draining = true;
  EXPECT_EQ(placement.MostUneven(view, 0.1, 10)->emptier, 2u);
  placement.Assume(1, -400);
  EXPECT_FALSE(placement.MostUneven(view, 0.1, 10)) << "until the next report";
  placement.Report(1, {.free_bytes = 200, .total_bytes = 1000, .busy = 0}, 0);
  EXPECT_TRUE(placement.MostUneven(view, 0.1, 10));
}

TEST(Entry, KeepsWhyItsHoldersHoldIt) {
  Entry entry = MakeEntry("a", 1);
  const Reason put = PackReason({.kind = ReasonKind::kPut});
  const Reason repair = PackReason({.kind = ReasonKind::kRepair, .other_zone = true, .other_host = true, .is_new = true, .suspect = true,
                                    .free_percent = 100, .busy_percent = 99});
  entry.AddHolder(7, put);
  entry.AddHolder(8, 0);
  entry.AddHolder(9, repair);
  EXPECT_EQ(entry.info(), "info");
  EXPECT_EQ(entry.WhyHolder(0), put);
  EXPECT_EQ(entry.WhyHolder(2), repair);
  EXPECT_EQ(ReasonText(entry.WhyHolder(2)), "repair of a lost copy: other host, other zone, 100 % free, 99 % busy, new, suspect");
  entry.RemoveHolder(7);
  EXPECT_EQ(entry.WhyHolder(0), 0u);
  EXPECT_EQ(entry.WhyHolder(1), repair);
  EXPECT_EQ(entry.info(), "info");
  entry.holders.push_back(10);  // of whom nothing is known
  EXPECT_EQ(entry.WhyHolder(2), 0u);
  entry.AddHolder(11, put);
  EXPECT_EQ(entry.WhyHolder(2), 0u);
  EXPECT_EQ(entry.WhyHolder(3), put);
  entry.SetText("a", "other");
  EXPECT_EQ(entry.info(), "other");
  EXPECT_EQ(entry.WhyHolder(1), 0u);
}

}  // namespace
}  // namespace penstock::server::directory
