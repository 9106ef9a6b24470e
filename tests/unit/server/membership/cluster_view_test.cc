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

v1::View ViewOf(const std::vector<v1::Member>& members) { return *NextView({}, members, 0); }

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
  EXPECT_FALSE(NextView(view, {Node('b'), Node('c'), Node('a')}, 7).has_value()) << "nothing has changed";
}

TEST(ClusterViewTest, WhoIsNotAliveAnyMoreIsAbsentUntilItIsBack) {
  const v1::View both = ViewOf({Node('a'), Node('b')});
  const v1::View alone = *NextView(both, {Node('a')}, 5);
  EXPECT_EQ(MembersOf(alone), "a");
  EXPECT_EQ(AbsentOf(alone), "b");
  EXPECT_EQ(alone.absent(0).since_ns(), 5u);
  EXPECT_FALSE(NextView(alone, {Node('a')}, 6).has_value());
  const v1::View again = *NextView(alone, {Node('a'), Node('b')}, 9);
  EXPECT_EQ(MembersOf(again), "ab");
  EXPECT_EQ(AbsentOf(again), "");
}

TEST(ClusterViewTest, AnAbsentNodeIsForgottenAfterADay) {
  const v1::View alone = *NextView(ViewOf({Node('a'), Node('b')}), {Node('a')}, kHourNs);
  EXPECT_FALSE(NextView(alone, {Node('a')}, 24 * kHourNs).has_value());
  EXPECT_EQ(AbsentOf(*NextView(alone, {Node('a')}, 25 * kHourNs)), "");
  EXPECT_FALSE(NextView(alone, {Node('a')}, 0).has_value()) << "a clock that jumps back forgets nobody";
}

TEST(ClusterViewTest, AnotherLifeOrAddressOfANodeIsAnotherView) {
  const v1::View view = ViewOf({Node('a', 1), Node('b')});
  const v1::View reborn = *NextView(view, {Node('a', 2), Node('b')}, 5);
  EXPECT_EQ(reborn.members(0).boot(), 2u);
  EXPECT_EQ(AbsentOf(reborn), "");
  EXPECT_EQ(NextView(view, {Node('a', 1, "h:2"), Node('b')}, 5)->members(0).address(), "h:2");
}

TEST(ClusterViewTest, AMemberHasItsNumberAsLongAsItStays) {
  const v1::View first = ViewOf({Node('a'), Node('b')});
  EXPECT_EQ(first.number(), 1u);
  const v1::View second = *NextView(first, {Node('a'), Node('b'), Node('c')}, 5);
  EXPECT_EQ(second.number(), 2u);
  EXPECT_EQ(FindMember(second, Node('a').id())->since(), 1u);
  EXPECT_EQ(FindMember(second, Node('c').id())->since(), 2u);
  const v1::View third = *NextView(second, {Node('a'), Node('c', 9)}, 6);
  EXPECT_EQ(FindMember(third, Node('c').id())->since(), 3u) << "another life";
  EXPECT_EQ(FindMember(*NextView(third, {Node('a'), Node('b'), Node('c', 9)}, 7), Node('b').id())->since(), 4u) << "it was away";
}

TEST(ClusterViewTest, WhoLeavesIsNotAbsent) {
  const v1::View view = *ViewWithoutMember(ViewOf({Node('a'), Node('b')}), Node('b').id());
  EXPECT_EQ(MembersOf(view), "a");
  EXPECT_EQ(AbsentOf(view), "");
  EXPECT_FALSE(ViewWithoutMember(view, Node('b').id()).has_value());
}

TEST(ClusterViewTest, OnlyWhoIsAbsentCanBeGivenUp) {
  const v1::View alone = *NextView(ViewOf({Node('a'), Node('b')}), {Node('a')}, 5);
  EXPECT_FALSE(ViewWithoutAbsent(alone, Node('a').id()).has_value());
  EXPECT_EQ(AbsentOf(*ViewWithoutAbsent(alone, Node('b').id())), "");
}

TEST(ClusterViewTest, AChangeIsToldByWhoAndHow) {
  const v1::View before = ViewOf({Node('a'), Node('b'), Node('c')});
  v1::View after = *NextView(before, {Node('b'), Node('c', 2), Node('d')}, 5);
  EXPECT_THAT(DescribeChange(before, after), AllOf(HasSubstr("joined: 63636363"), HasSubstr("64646464")));
  EXPECT_THAT(DescribeChange(before, after), HasSubstr("expelled, as its lease ended: 61616161"));
  EXPECT_THAT(DescribeChange(before, *ViewWithoutMember(before, Node('a').id())), HasSubstr("left: 61616161"));
  EXPECT_THAT(DescribeChange(before, before), IsEmpty());
}

}  // namespace
}  // namespace penstock::server
