#include "server/membership/directory_view.h"

#include <gtest/gtest.h>

#include "server/membership/cluster_view.h"

namespace penstock::server {
namespace {

std::string Uuid(char first) { return std::string(1, first) + std::string("\x02\x03\x04\x05\x06\x07\xf8qqqqqqqq", 15); }

v1::Member Node(char first) {
  v1::Member member;
  member.set_id(Uuid(first));
  member.set_boot(1000 + first);
  member.set_session(100 + first);
  member.set_lease(200 + first);
  member.set_zone("z");
  member.set_host(std::string("host-") + first);
  member.set_address(std::string(1, first) + ":1");
  return member;
}

TEST(DirectoryViewTest, ANodeThatLostItsMemoryIsAnotherOne) {
  v1::View view = *NextView({}, {Node('a'), Node('b')}, 0, 9);
  v1::Member again = Node('a');
  again.set_boot(77);
  view = *NextView(view, {again, Node('b')}, 0, 9);
  const directory::View out = ToDirectoryView(view);
  EXPECT_EQ(out.Find(DirectoryIdOf(Node('a'))), nullptr);
  ASSERT_NE(out.Find(77), nullptr);
  EXPECT_EQ(out.Find(77)->since, 2u);
  EXPECT_TRUE(out.absent.empty()) << "nobody waits for what is gone";
}

TEST(DirectoryViewTest, MembersAndAbsentOnesAreTheViews) {
  v1::View view = *NextView({}, {Node('a'), Node('b'), Node('c')}, 0, 9);
  view = *ViewWithDraining(view, Uuid('b'), true);
  view = *NextView(view, {Node('a'), Node('b'), Node('d')}, 0, 9);
  const directory::View out = ToDirectoryView(view);
  EXPECT_EQ(out.term, 3u);
  ASSERT_EQ(out.members.size(), 3u);
  const directory::Member* a = out.Find(DirectoryIdOf(Node('a')));
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->session, 100u + 'a');
  EXPECT_EQ(a->lease, 200u + 'a');
  EXPECT_EQ(a->since, 1u);
  EXPECT_EQ(a->host, "host-a");
  EXPECT_EQ(a->zone, "z");
  EXPECT_FALSE(a->draining);
  EXPECT_TRUE(out.Find(DirectoryIdOf(Node('b')))->draining);
  EXPECT_EQ(out.Find(DirectoryIdOf(Node('d')))->since, 3u);
  ASSERT_EQ(out.absent.size(), 1u);
  EXPECT_EQ(out.absent[0], DirectoryIdOf(Node('c')));
}

TEST(DirectoryViewTest, ANodeThatHasNoDirectoryIsLeftOut) {
  v1::Member old = Node('a');
  old.clear_session();
  EXPECT_TRUE(ToDirectoryView(*NextView({}, {old}, 0, 9)).members.empty());
  EXPECT_EQ(ToDirectoryView({}).term, 0u);
}

}  // namespace
}  // namespace penstock::server
