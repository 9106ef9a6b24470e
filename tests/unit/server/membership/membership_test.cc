// With a real etcd: what views say of a node's processes and leases, and when names are served.
#include "server/membership/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "proto/uuid_text.h"
#include "server/membership/cluster_view.h"
#include "tests/unit/server/membership/etcd_server.h"
#include "tests/unit/server/membership/silent_watch.h"
#include "transport/monotonic.h"

namespace penstock::server {
namespace {

using testing::HasSubstr;

std::string Uuid(char id) { return std::string(16, id); }

// One process of a node.
class Process {
 public:
  Process(const std::vector<std::string>& etcd, const std::string& cluster, const std::string& id, Membership::Kept* kept, absl::Duration ttl)
      : membership_(OptionsOf(etcd, cluster, id, ttl), kept,
                    {.view = [this](const v1::View& view, int64_t revision) {
                       std::lock_guard lock(mutex_);
                       view_ = view;
                       revision_ = revision;
                     },
                     .serve_until = [this, id](uint64_t ns, int64_t lease) {
                       std::lock_guard lock(mutex_);
                       until_ns_ = ns;
                       const v1::Member* self = FindMember(view_, id);
                       wrong_ |= ns != 0 && (self == nullptr || self->lease() != lease || lease == 0);
                       lease_ = lease;
                     },
                     .event = [this](const std::string& text) {
                       std::lock_guard lock(mutex_);
                       events_ += text + "\n";
                     }}) {}
  ~Process() { EXPECT_FALSE(wrong_) << "it was granted a time by a lease that the view did not name"; }

  Membership& membership() { return membership_; }
  v1::View view() {
    std::lock_guard lock(mutex_);
    return view_;
  }
  int64_t revision() {
    std::lock_guard lock(mutex_);
    return revision_;
  }
  int64_t lease() {
    std::lock_guard lock(mutex_);
    return lease_;
  }
  bool Serves() {
    std::lock_guard lock(mutex_);
    return static_cast<int64_t>(until_ns_) > MonotonicNanos();
  }
  std::string events() {
    std::lock_guard lock(mutex_);
    return events_;
  }

 private:
  static MembershipOptions OptionsOf(const std::vector<std::string>& etcd, const std::string& cluster, const std::string& id, absl::Duration ttl) {
    MembershipOptions options{.etcd = etcd, .access = {}, .cluster = cluster, .ttl = ttl, .self = {}};
    options.self.set_id(id);
    options.self.set_address("h:" + std::to_string(id[0]));
    options.self.set_host(std::string("host-") + id[0]);
    return options;
  }

  std::mutex mutex_;
  v1::View view_;
  int64_t revision_ = 0;
  uint64_t until_ns_ = 0;
  int64_t lease_ = 0;
  bool wrong_ = false;
  std::string events_;
  Membership membership_;
};

class MembershipTest : public EtcdTest {
 protected:
  // The memory of a node, and the process on it.
  struct Node {
    Membership::Kept kept{};
    std::unique_ptr<Process> process;
  };
  void Start(Node* node, const std::string& id, absl::Duration ttl = absl::Seconds(60)) {
    node->process.reset();
    node->process = std::make_unique<Process>(etcd_->endpoints(), Cluster(), id, &node->kept, ttl);
    EXPECT_TRUE(Eventually([&] { return node->process->Serves(); })) << node->process->membership().now().why;
  }
  v1::Member InView(const std::string& id) {
    const v1::View view = ViewInEtcd();
    const v1::Member* member = FindMember(view, id);
    return member != nullptr ? *member : v1::Member();
  }
};

TEST_F(MembershipTest, AViewNamesTheProcessItsLeaseAndItsHost) {
  Node a, b;
  Start(&a, Uuid('a'));
  Start(&b, Uuid('b'));
  ASSERT_TRUE(Eventually([&] { return a.process->view().members_size() == 2; }));
  const v1::View view = a.process->view();
  const v1::Member* of_a = FindMember(view, Uuid('a'));
  EXPECT_EQ(of_a->session(), a.process->membership().session());
  EXPECT_NE(of_a->session(), FindMember(view, Uuid('b'))->session());
  EXPECT_EQ(of_a->lease(), a.kept.lease);
  EXPECT_EQ(of_a->lease(), Get("nodes/" + UuidText(Uuid('a'))).lease());
  EXPECT_EQ(of_a->host(), "host-a");
  EXPECT_EQ(a.process->lease(), a.kept.lease);
  EXPECT_EQ(a.process->revision(), Get("view").mod_revision());
  EXPECT_EQ(a.process->membership().now().term, view.number());
  EXPECT_NE(view.cluster_id(), 0u);
}

TEST_F(MembershipTest, TheNextProcessGoesOnWithTheLeaseInANewView) {
  Node a, b;
  Start(&a, Uuid('a'));
  Start(&b, Uuid('b'));
  ASSERT_TRUE(Eventually([&] { return b.process->view().members_size() == 2; }));
  const v1::View before = ViewInEtcd();
  const v1::Member old = InView(Uuid('b'));
  Start(&b, Uuid('b'));
  const v1::Member now = InView(Uuid('b'));
  EXPECT_EQ(now.lease(), old.lease());
  EXPECT_NE(now.session(), old.session());
  EXPECT_EQ(now.since(), old.since());
  EXPECT_EQ(ViewInEtcd().number(), before.number() + 1) << "that alone";
  EXPECT_EQ(ViewInEtcd().cluster_id(), before.cluster_id());
  EXPECT_THAT(a.process->events(), HasSubstr("its process was replaced: 6262"));
}

TEST_F(MembershipTest, ALeaseWhoseKeyIsGoneIsGivenUp) {
  Node a, b;
  Start(&a, Uuid('a'));
  Start(&b, Uuid('b'), absl::Seconds(3));
  const v1::Member old = InView(Uuid('b'));
  Delete("nodes/" + UuidText(Uuid('b')));
  ASSERT_TRUE(Eventually([&] { return InView(Uuid('b')).lease() != old.lease() && InView(Uuid('b')).lease() != 0; }));
  EXPECT_GT(InView(Uuid('b')).since(), old.since()) << "a has expelled it in between";
  EXPECT_TRUE(Eventually([&] { return b.process->Serves() && b.process->lease() == InView(Uuid('b')).lease(); }));
}

TEST_F(MembershipTest, ARegistrationThatCameLateIsNotRenewed) {
  Node a;
  Start(&a, Uuid('a'), absl::Seconds(3));
  const v1::Member old = InView(Uuid('a'));
  // An earlier call of this very process, under a lease of which it does not know that it was granted.
  const auto late = client_->GrantLease(absl::Seconds(60), absl::Seconds(5));
  ASSERT_TRUE(late.ok());
  v1::Member member;
  ASSERT_TRUE(member.ParseFromString(Get("nodes/" + UuidText(Uuid('a'))).value()));
  member.set_lease(*late);
  Put("nodes/" + UuidText(Uuid('a')), member.SerializeAsString(), *late);
  ASSERT_TRUE(Eventually([&] { return InView(Uuid('a')).lease() != old.lease() && InView(Uuid('a')).lease() != *late; }));
  EXPECT_TRUE(Eventually([&] { return a.process->Serves() && a.process->lease() == InView(Uuid('a')).lease(); }));
  EXPECT_EQ(Get("nodes/" + UuidText(Uuid('a'))).lease(), a.process->lease());
}

TEST_F(MembershipTest, WhatDoesNotSayItsLeaseIsNoMember) {
  Node a;
  Start(&a, Uuid('a'));
  v1::Member forged;
  forged.set_id(Uuid('b'));
  forged.set_lease(5);
  const uint64_t number = ViewInEtcd().number();
  Put("nodes/" + UuidText(Uuid('b')), forged.SerializeAsString());
  Node c;
  Start(&c, Uuid('c'));
  EXPECT_EQ(ViewInEtcd().number(), number + 1);
  EXPECT_EQ(FindMember(ViewInEtcd(), Uuid('b')), nullptr);
}

TEST_F(MembershipTest, ANodeIsDrainedByWhoeverIsAskedUntilItIsTakenBack) {
  Node a, b;
  Start(&a, Uuid('a'));
  Start(&b, Uuid('b'));
  const uint64_t number = ViewInEtcd().number();
  EXPECT_THAT(a.process->membership().SetDraining(Uuid('b'), true).value(), number + 1);
  EXPECT_TRUE(FindMember(a.process->view(), Uuid('b'))->draining());
  EXPECT_TRUE(Eventually([&] { return FindMember(b.process->view(), Uuid('b'))->draining(); }));
  EXPECT_EQ(a.process->membership().SetDraining(Uuid('b'), true).value(), number + 1) << "it does already";
  v1::ClusterInfo info;
  a.process->membership().Tell(&info);
  EXPECT_EQ(info.nodes(0).state(), "up");
  EXPECT_EQ(info.nodes(1).state(), "draining");
  EXPECT_EQ(info.nodes(1).host(), "host-b");
  EXPECT_EQ(info.term(), number + 1);
  Start(&b, Uuid('b'));
  EXPECT_TRUE(InView(Uuid('b')).draining()) << "another process of it";
  EXPECT_EQ(b.process->membership().SetDraining(Uuid('b'), false).value(), number + 3);
  EXPECT_FALSE(InView(Uuid('b')).draining());
  const absl::Status nobody = a.process->membership().SetDraining(Uuid('x'), true).status();
  EXPECT_EQ(nobody.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(nobody.message()), HasSubstr("node: 7878"));
  EXPECT_EQ(ViewInEtcd().number(), number + 3);
}

TEST_F(MembershipTest, AnIdThatBeginsLikeAMembersIsRefused) {
  Node a, twin;
  Start(&a, Uuid('a'));
  twin.process = std::make_unique<Process>(etcd_->endpoints(), Cluster(), std::string(8, 'a') + std::string(8, 'b'), &twin.kept, absl::Seconds(60));
  ASSERT_TRUE(Eventually([&] { return !twin.process->membership().Failed().ok(); }));
  EXPECT_EQ(twin.process->membership().Failed().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(twin.process->membership().Failed().message()), HasSubstr("--node_id"));
  EXPECT_EQ(ViewInEtcd().members_size(), 1);
}

TEST_F(MembershipTest, AClusterKeepsItsIdWhoeverLeavesAndLosesItWithItsView) {
  Node a, b;
  Start(&a, Uuid('a'));
  const uint64_t id = ViewInEtcd().cluster_id();
  Start(&b, Uuid('b'));
  a.process->membership().Stop(/*leave=*/true);
  ASSERT_TRUE(Eventually([&] { return b.process->view().members_size() == 1; }));
  EXPECT_EQ(ViewInEtcd().cluster_id(), id);
  EXPECT_EQ(ViewInEtcd().number(), 3u);
  Delete("view");
  ASSERT_TRUE(Eventually([&] { return b.process->view().number() == 1 && b.process->view().members_size() == 1; }));
  const uint64_t second = ViewInEtcd().cluster_id();
  EXPECT_NE(second, id);
  ASSERT_TRUE(b.process->membership().SetDraining(Uuid('b'), true).ok());
  ASSERT_TRUE(b.process->membership().SetDraining(Uuid('b'), false).ok());
  // A number that has gone back in one cluster is of another one.
  v1::View old = ViewInEtcd();
  old.set_number(1);
  Put("view", old.SerializeAsString());
  EXPECT_TRUE(Eventually([&] { return b.process->view().cluster_id() != second && b.process->view().cluster_id() != 0; }));
}

// All keys are read with each renewal of the lease: a watch that has gone silent costs a third of the lease, not the truth.
TEST_F(MembershipTest, AWatchThatTellsNothingIsNotMissed) {
  SilentWatchFront front(etcd_->endpoints()[0]);
  Node a, b;
  Start(&a, Uuid('a'));
  b.process = std::make_unique<Process>(std::vector<std::string>{front.address()}, Cluster(), Uuid('b'), &b.kept, absl::Seconds(6));
  ASSERT_TRUE(Eventually([&] { return b.process->Serves(); })) << b.process->membership().now().why;
  ASSERT_TRUE(Eventually([&] { return front.watches() > 0; })) << "it watches";
  Node c;
  Start(&c, Uuid('c'));
  EXPECT_TRUE(Eventually([&] { return b.process->view().members_size() == 3; }, absl::Seconds(10)));
  c.process->membership().Stop(/*leave=*/true);
  EXPECT_TRUE(Eventually([&] { return b.process->view().members_size() == 2; }, absl::Seconds(10)));
  EXPECT_TRUE(b.process->Serves());
  // Expelled by hand: it learns that, too, and comes back.
  const uint64_t since = InView(Uuid('b')).since();
  Delete("nodes/" + UuidText(Uuid('b')));
  EXPECT_TRUE(Eventually([&] { return InView(Uuid('b')).since() > since && b.process->Serves(); }, absl::Seconds(20)));
}

}  // namespace
}  // namespace penstock::server
