#include "server/membership/cluster_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace penstock::server {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kHourNs = uint64_t{3600} * 1'000'000'000;

v1::Member Node(char id, uint64_t boot = 1, const std::string& address = "h:1") {
  v1::Member member;
  member.set_id(std::string(16, id));
  member.set_boot(boot);
  member.set_address(address);
  return member;
}

constexpr uint64_t kNewCluster = 4711;

std::optional<v1::View> NextOf(const v1::View& view, const std::vector<v1::Member>& alive, uint64_t now_ns) {
  return NextView(view, alive, now_ns, kNewCluster);
}
v1::View ViewOf(const std::vector<v1::Member>& members) { return *NextOf({}, members, 0); }

std::string MembersOf(const v1::View& view) {
  std::string ids;
  for (const v1::Member& member : view.members()) ids += member.id()[0];
  return ids;
}

std::string AbsentOf(const v1::View& view) {
  std::string ids;
  for (const v1::View::Absent& absent : view.absent()) ids += absent.member().id()[0];
  return ids;
}

TEST(ClusterViewTest, WhoIsAliveIsAMemberInTheOrderOfIds) {
  const v1::View view = ViewOf({Node('c'), Node('a'), Node('b')});
  EXPECT_EQ(MembersOf(view), "abc");
  EXPECT_FALSE(NextOf(view, {Node('b'), Node('c'), Node('a')}, 7).has_value()) << "nothing has changed";
}

TEST(ClusterViewTest, WhoIsNotAliveAnyMoreIsAbsentUntilItIsBack) {
  const v1::View both = ViewOf({Node('a'), Node('b')});
  const v1::View alone = *NextOf(both, {Node('a')}, 5);
  EXPECT_EQ(MembersOf(alone), "a");
  EXPECT_EQ(AbsentOf(alone), "b");
  EXPECT_EQ(alone.absent(0).since_ns(), 5u);
  EXPECT_FALSE(NextOf(alone, {Node('a')}, 6).has_value());
  const v1::View again = *NextOf(alone, {Node('a'), Node('b')}, 9);
  EXPECT_EQ(MembersOf(again), "ab");
  EXPECT_EQ(AbsentOf(again), "");
}

TEST(ClusterViewTest, AnAbsentNodeIsForgottenAfterADay) {
  const v1::View alone = *NextOf(ViewOf({Node('a'), Node('b')}), {Node('a')}, kHourNs);
  EXPECT_FALSE(NextOf(alone, {Node('a')}, 24 * kHourNs).has_value());
  EXPECT_EQ(AbsentOf(*NextOf(alone, {Node('a')}, 25 * kHourNs)), "");
  EXPECT_FALSE(NextOf(alone, {Node('a')}, 0).has_value()) << "a clock that jumps back forgets nobody";
}

TEST(ClusterViewTest, AnotherLifeOrAddressOfANodeIsAnotherView) {
  const v1::View view = ViewOf({Node('a', 1), Node('b')});
  const v1::View reborn = *NextOf(view, {Node('a', 2), Node('b')}, 5);
  EXPECT_EQ(reborn.members(0).boot(), 2u);
  EXPECT_EQ(AbsentOf(reborn), "");
  EXPECT_EQ(NextOf(view, {Node('a', 1, "h:2"), Node('b')}, 5)->members(0).address(), "h:2");
}

TEST(ClusterViewTest, AMemberHasItsNumberAsLongAsItStays) {
  const v1::View first = ViewOf({Node('a'), Node('b')});
  EXPECT_EQ(first.number(), 1u);
  const v1::View second = *NextOf(first, {Node('a'), Node('b'), Node('c')}, 5);
  EXPECT_EQ(second.number(), 2u);
  EXPECT_EQ(FindMember(second, Node('a').id())->since(), 1u);
  EXPECT_EQ(FindMember(second, Node('c').id())->since(), 2u);
  const v1::View third = *NextOf(second, {Node('a'), Node('c', 9)}, 6);
  EXPECT_EQ(FindMember(third, Node('c').id())->since(), 3u) << "another life";
  EXPECT_EQ(FindMember(*NextOf(third, {Node('a'), Node('b'), Node('c', 9)}, 7), Node('b').id())->since(), 4u) << "it was away";
}

TEST(ClusterViewTest, ANewProcessOrLeaseIsAnotherViewAndKeepsTheNumberSinceWhichItIsThere) {
  const v1::View first = ViewOf({Node('a'), Node('b')});
  v1::Member next = Node('a');
  next.set_session(5);
  next.set_lease(6);
  const v1::View second = *NextOf(first, {next, Node('b')}, 5);
  EXPECT_EQ(second.number(), 2u);
  EXPECT_EQ(second.members(0).session(), 5u);
  EXPECT_EQ(second.members(0).lease(), 6);
  EXPECT_EQ(second.members(0).since(), 1u);
  EXPECT_THAT(DescribeChange(first, second), HasSubstr("its process was replaced: 61616161"));
  next.set_lease(7);
  EXPECT_EQ(NextOf(second, {next, Node('b')}, 5)->members(0).since(), 1u);
}

TEST(ClusterViewTest, AClusterHasOneId) {
  const v1::View first = ViewOf({Node('a')});
  EXPECT_EQ(first.cluster_id(), kNewCluster);
  const v1::View second = *NextView(first, {Node('a'), Node('b')}, 5, 1);
  EXPECT_EQ(second.cluster_id(), kNewCluster);
  EXPECT_EQ(ViewWithoutMember(second, Node('b').id())->cluster_id(), kNewCluster);
  v1::View without = second;
  without.clear_cluster_id();
  EXPECT_EQ(NextView(without, {Node('a'), Node('b')}, 5, 2)->cluster_id(), 2u) << "also when nothing else changes";
  EXPECT_FALSE(NextOf({}, {}, 0).has_value());
}

TEST(ClusterViewTest, WhoDrainsDoesSoUntilItIsTakenBackOrItsMemoryIsLost) {
  const v1::View view = *ViewWithDraining(ViewOf({Node('a'), Node('b')}), Node('a').id(), true);
  EXPECT_EQ(view.number(), 2u);
  EXPECT_TRUE(view.members(0).draining());
  EXPECT_FALSE(NextOf(view, {Node('a'), Node('b')}, 5).has_value()) << "its key need not say so";
  EXPECT_EQ(ViewWithDraining(view, Node('a').id(), true)->number(), 2u) << "nothing to change";
  v1::Member restarted = Node('a');
  restarted.set_session(5);
  EXPECT_TRUE(NextOf(view, {restarted, Node('b')}, 5)->members(0).draining());
  const v1::View away = *NextOf(view, {Node('b')}, 5);
  EXPECT_TRUE(NextOf(away, {Node('a'), Node('b')}, 5)->members(0).draining()) << "it was away";
  EXPECT_FALSE(NextOf(away, {Node('a', 2), Node('b')}, 5)->members(0).draining()) << "another life";
  EXPECT_FALSE(NextOf(view, {Node('a', 2), Node('b')}, 5)->members(0).draining());
  EXPECT_FALSE(ViewWithDraining(view, Node('a').id(), false)->members(0).draining());
  EXPECT_FALSE(ViewWithDraining(away, Node('a').id(), true).has_value()) << "it is absent";
}

TEST(ClusterViewTest, OfTwoNodesWhoseIdsBeginAlikeOneIsAMember) {
  const auto twin = [](char first, char last) {
    v1::Member member = Node(first);
    member.set_id(std::string(8, first) + std::string(8, last));
    return member;
  };
  const v1::View both = ViewOf({twin('a', '2'), twin('a', '1'), Node('b')});
  ASSERT_EQ(both.members_size(), 2);
  EXPECT_EQ(both.members(0).id(), twin('a', '1').id());
  const v1::View first = ViewOf({twin('a', '2'), Node('b')});
  EXPECT_FALSE(NextOf(first, {twin('a', '1'), twin('a', '2'), Node('b')}, 5).has_value()) << "who was there first stays";
  const v1::View away = *NextOf(first, {Node('b')}, 5);
  EXPECT_FALSE(NextOf(away, {twin('a', '1'), Node('b')}, 5).has_value()) << "it may come back";
  EXPECT_EQ(WhoBars(twin('a', '1').id(), away, {})->id(), twin('a', '2').id());
  EXPECT_EQ(WhoBars(twin('a', '2').id(), first, {twin('a', '1'), twin('a', '2')}), nullptr);
  EXPECT_TRUE(NextOf(*ViewWithoutAbsent(away, twin('a', '2').id()), {twin('a', '1'), Node('b')}, 5).has_value());
}

TEST(ClusterViewTest, WhoHasAnAbsentOnesAddressOnItsHostReplacesIt) {
  const auto at = [](char id, const std::string& host, const std::string& address) {
    v1::Member member = Node(id, 1, address);
    member.set_host(host);
    return member;
  };
  const v1::View view = ViewOf({at('a', "h1", "h1:7"), at('b', "h2", "h2:7")});
  const v1::View alone = *NextOf(view, {at('b', "h2", "h2:7")}, 5);
  EXPECT_EQ(AbsentOf(alone), "a");
  EXPECT_EQ(AbsentOf(*NextOf(alone, {at('b', "h2", "h2:7"), at('c', "h1", "h1:8")}, 5)), "a") << "another port";
  EXPECT_EQ(AbsentOf(*NextOf(alone, {at('b', "h2", "h2:7"), at('c', "h3", "h1:7")}, 5)), "a") << "another host of that address";
  EXPECT_EQ(AbsentOf(*NextOf(alone, {at('b', "h2", "h2:7"), at('c', "h1", "h1:7")}, 5)), "");
  EXPECT_EQ(AbsentOf(*NextOf(view, {at('b', "h2", "h2:7"), at('c', "h1", "h1:7")}, 5)), "") << "before anybody saw it absent";
}

TEST(ClusterViewTest, WhoLeavesIsNotAbsent) {
  const v1::View view = *ViewWithoutMember(ViewOf({Node('a'), Node('b')}), Node('b').id());
  EXPECT_EQ(MembersOf(view), "a");
  EXPECT_EQ(AbsentOf(view), "");
  EXPECT_FALSE(ViewWithoutMember(view, Node('b').id()).has_value());
}

TEST(ClusterViewTest, OnlyWhoIsAbsentCanBeGivenUp) {
  const v1::View alone = *NextOf(ViewOf({Node('a'), Node('b')}), {Node('a')}, 5);
  EXPECT_FALSE(ViewWithoutAbsent(alone, Node('a').id()).has_value());
  EXPECT_EQ(AbsentOf(*ViewWithoutAbsent(alone, Node('b').id())), "");
}

TEST(ClusterViewTest, AChangeIsToldByWhoAndHow) {
  const v1::View before = ViewOf({Node('a'), Node('b'), Node('c')});
  v1::View after = *NextOf(before, {Node('b'), Node('c', 2), Node('d')}, 5);
  EXPECT_THAT(DescribeChange(before, after), AllOf(HasSubstr("joined: 63636363"), HasSubstr("64646464")));
  EXPECT_THAT(DescribeChange(before, after), HasSubstr("expelled, as its lease ended: 61616161"));
  EXPECT_THAT(DescribeChange(before, *ViewWithoutMember(before, Node('a').id())), HasSubstr("left: 61616161"));
  EXPECT_THAT(DescribeChange(before, *ViewWithDraining(before, Node('a').id(), true)), HasSubstr("is drained: 61616161"));
  EXPECT_THAT(DescribeChange(*ViewWithDraining(before, Node('a').id(), true), before), HasSubstr("is drained no more: 61616161"));
  EXPECT_THAT(DescribeChange(before, before), IsEmpty());
}

}  // namespace
}  // namespace penstock::server
