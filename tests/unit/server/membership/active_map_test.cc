#include "server/membership/active_map.h"

#include <gtest/gtest.h>

#include "cluster.pb.h"

namespace penstock::server {
namespace {

constexpr uint64_t kCluster = 77;
constexpr uint32_t kCount = 4096;

std::vector<directory::Activation> LastOf(const ActiveMap& map, directory::NodeId home = 1) {
  std::vector<directory::Activation> last(kCount);
  map.MergeInto(home, &last);
  return last;
}

TEST(ActiveMapTest, ComesBackAsItWas) {
  ActiveMap map(kCount);
  map.Add(3, {{0, 8}, {5, 9}, {4095, 8}});
  map.Add(4, {{5, 0}});
  const ActiveMap again = ActiveMap::Parse(map.Serialize(kCluster), kCluster, kCount);
  EXPECT_TRUE(again.Has(3, {{0, 8}, {4095, 8}}));
  EXPECT_TRUE(again.Has(4, {{5, 0}}));
  EXPECT_FALSE(again.Has(3, {{5, 9}})) << "a later view";
  EXPECT_FALSE(again.Has(3, {{0, 9}})) << "another backup";
  EXPECT_FALSE(again.Has(3, {{1, 8}}));
  const std::vector<directory::Activation> last = LastOf(again);
  EXPECT_EQ(last[0].term, 3u);
  EXPECT_EQ(last[0].home, 1u);
  EXPECT_EQ(last[0].backup, 8u);
  EXPECT_EQ(last[5].term, 4u);
  EXPECT_EQ(last[5].backup, 0u);
  EXPECT_EQ(last[1].term, 0u);
  EXPECT_EQ(last[1].home, 0u);
}

TEST(ActiveMapTest, TheLargestTermOfAPartitionCounts) {
  ActiveMap a(kCount), b(kCount);
  a.Add(3, {{0, 8}, {1, 8}});
  b.Add(4, {{1, 9}, {2, 9}});
  for (const bool a_first : {true, false}) {
    std::vector<directory::Activation> last(kCount);
    (a_first ? a : b).MergeInto(a_first ? 100 : 200, &last);
    (a_first ? b : a).MergeInto(a_first ? 200 : 100, &last);
    EXPECT_EQ(last[0].home, 100u);
    EXPECT_EQ(last[1].home, 200u);
    EXPECT_EQ(last[1].backup, 9u);
    EXPECT_EQ(last[2].home, 200u);
    EXPECT_TRUE(a.IsLastAnywhere(last));
    b.Add(5, {{0, 9}});
    b.MergeInto(200, &last);
    EXPECT_FALSE(a.IsLastAnywhere(last));
    EXPECT_TRUE(b.IsLastAnywhere(last));
    b = ActiveMap(kCount);
    b.Add(4, {{1, 9}, {2, 9}});
  }
}

TEST(ActiveMapTest, WhatIsOfAnotherClusterOrNotPenstocksIsNothing) {
  ActiveMap map(kCount);
  map.Add(3, {{7, 8}});
  const std::string value = map.Serialize(kCluster);
  EXPECT_TRUE(ActiveMap::Parse(value, kCluster, kCount).Has(3, {{7, 8}}));
  EXPECT_FALSE(ActiveMap::Parse(value, kCluster + 1, kCount).Has(3, {{7, 8}}));
  EXPECT_FALSE(ActiveMap::Parse(value.substr(0, value.size() - 1), kCluster, kCount).Has(3, {{7, 8}}));
  EXPECT_FALSE(ActiveMap::Parse(value, kCluster, 7).Has(3, {{7, 8}})) << "no such partition";
  EXPECT_FALSE(ActiveMap::Parse("", kCluster, kCount).IsLastAnywhere(std::vector<directory::Activation>(kCount)));
}

TEST(ActiveMapTest, AllPartitionsFitOneValueOfEtcd) {
  ActiveMap same(kCount), worst(kCount);
  for (uint32_t p = 0; p < kCount; ++p) {
    same.Add(1'000'000, {{p, ~directory::NodeId{0}}});
    worst.Add(4'000'000'000 + p, {{p, ~directory::NodeId{0} - p}});
  }
  EXPECT_LE(same.Serialize(kCluster).size(), size_t{8} << 10);
  EXPECT_LE(worst.Serialize(kCluster).size(), size_t{100} << 10);
  EXPECT_TRUE(ActiveMap::Parse(worst.Serialize(kCluster), kCluster, kCount).Has(4'000'000'000 + 4095, {{4095, ~directory::NodeId{0} - 4095}}));
}

}  // namespace
}  // namespace penstock::server
