#include "server/directory_link/directory_link.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/directory_link/wire.h"
#include "tests/unit/server/directory_link/freezing_relay.h"
#include "tests/unit/server/directory_link/link_node.h"

namespace penstock::server {
namespace {

using directory::Message;
using directory::NodeId;

TEST(DirectoryLink, MessagesArriveInTheirOrderAndManyAtOnce) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  std::vector<uint64_t> sent(20'000);
  std::iota(sent.begin(), sent.end(), 1);
  for (const uint64_t number : sent) a.link().Send(2, Numbered(number));
  ASSERT_TRUE(b.Hears(sent.back()));
  EXPECT_EQ(b.numbers(), sent);
  EXPECT_LT(b.batches(), sent.size() / 4);
  for (const LinkNode::Told& told : b.told()) EXPECT_EQ(told.from, 1u);
  ASSERT_TRUE(Eventually([&] { return a.link().Tell().messages_sent == sent.size(); }));
  const DirectoryLinkStats at_a = a.link().Tell(), at_b = b.link().Tell();
  EXPECT_EQ(at_b.messages_received, sent.size());
  EXPECT_EQ(at_a.bytes_sent, at_b.bytes_received);
  EXPECT_EQ(at_a.messages_dropped, 0u);
  EXPECT_EQ(at_a.reconnects, 0u);
  ASSERT_EQ(at_a.peers.size(), 1u);
  EXPECT_TRUE(at_a.peers[0].connected);
  EXPECT_FALSE(at_a.peers[0].bulk_connected) << "nothing was sent by it";
  EXPECT_EQ(at_a.peers[0].queued_bytes, 0u);
}

TEST(DirectoryLink, ABatchIsCutAtItsLimit) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  directory::Recall recall{.run = 1, .name = std::string(500, 'n')};
  constexpr size_t kCount = 20'000;  // 10 MB: at least ten batches
  for (size_t i = 0; i < kCount; ++i) a.link().Send(2, recall);
  ASSERT_TRUE(Eventually([&] { return b.told().size() == kCount; }));
  EXPECT_GE(b.batches(), 10u);
}

TEST(DirectoryLink, AnAnswerMayBeSentFromTheCallback) {
  std::atomic<DirectoryLink*> answering{nullptr};
  LinkNode a({.id = 1});
  LinkNode b({.id = 2, .then = [&](NodeId from, const Message& message) { answering.load()->Send(from, message); }});
  answering.store(&b.link());
  a.link().SetPeers({b.peer()});
  b.link().SetPeers({a.peer()});
  for (uint64_t number = 1; number <= 100; ++number) {
    a.link().Send(2, Numbered(number));
    ASSERT_TRUE(a.Hears(number));
  }
  EXPECT_EQ(a.numbers().size(), 100u);
}

TEST(DirectoryLink, ALargeMessageTravels) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  const Message large = Bulk(7, size_t{24} << 20);
  a.link().Send(2, large);
  ASSERT_TRUE(Eventually([&] { return b.told().size() == 1; }));
  EXPECT_EQ(std::get<directory::Push>(b.told()[0].message).entries.size(), std::get<directory::Push>(large).entries.size());
  EXPECT_TRUE(a.Of(2).bulk_connected);
}

TEST(DirectoryLink, ListsDoNotHoldUpSmallMessages) {
  constexpr uint64_t kLists = 60;
  std::atomic<uint64_t> lists{0}, lists_before_small{kLists};
  LinkNode a({.id = 1});
  LinkNode b({.id = 2, .then = [&](NodeId, const Message& message) {
    if (std::holds_alternative<directory::Push>(message)) {
      lists.fetch_add(1);
      Eventually([end = std::chrono::steady_clock::now() + std::chrono::milliseconds(10)] { return std::chrono::steady_clock::now() > end; });
    } else {
      lists_before_small.store(lists.load());
    }
  }});
  a.link().SetPeers({b.peer()});
  for (uint64_t number = 1; number <= kLists; ++number) a.link().Send(2, Bulk(number, 400 * 1024));
  ASSERT_TRUE(Eventually([&] { return lists.load() > 0; }));
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(b.Hears(1));
  EXPECT_LT(lists_before_small.load(), kLists / 2);
  ASSERT_TRUE(Eventually([&] { return lists.load() == kLists; }));
}

TEST(DirectoryLink, WhatIsLargeGoesByTheStreamForListsWhateverItIs) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  directory::Lookup lookup{.request = 1, .lease = false, .names = {}};
  for (uint32_t i = 0; i < 1000; ++i) lookup.names.push_back({i, std::string(100, 'n')});
  a.link().Send(2, lookup);
  ASSERT_TRUE(Eventually([&] { return b.told().size() == 1; }));
  EXPECT_TRUE(a.Of(2).bulk_connected);
  EXPECT_FALSE(a.Of(2).connected);
}

TEST(DirectoryLink, APeerThatIsNotThereHoldsUpNobodyAndHearsWhenItComes) {
  const int port = FreePort();
  LinkNode a({.id = 1}), there({.id = 3});
  a.link().SetPeers({{2, TcpAddress("127.0.0.1", port)}, there.peer()});
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(Eventually([&] { return !a.Of(2).error.empty(); })) << "the attempt has failed";
  EXPECT_FALSE(a.Of(2).connected);
  a.link().Send(3, Numbered(2));
  EXPECT_TRUE(there.Hears(2));
  a.link().Send(2, Numbered(3));
  LinkNode late({.id = 2, .port = port});
  EXPECT_TRUE(late.Hears(3));
  EXPECT_TRUE(a.Of(2).connected);
  EXPECT_EQ(a.Of(2).error, "");
}

TEST(DirectoryLink, WhatWaitedTooLongForAPeerIsDropped) {
  LinkNode a({.id = 1});
  a.link().SetPeers({{2, TcpAddress("127.0.0.1", FreePort())}});
  a.link().Send(2, Numbered(1));
  EXPECT_EQ(a.link().Tell().messages_dropped, 0u);
  EXPECT_TRUE(Eventually([&] { return a.link().Tell().messages_dropped == 1; }));
  EXPECT_EQ(a.Of(2).queued_bytes, 0u);
}

TEST(DirectoryLink, APeerThatRestartsIsFoundAgain) {
  LinkNode a({.id = 1});
  int port = 0;
  {
    LinkNode first({.id = 2, .session = 7});
    port = first.port();
    a.link().SetPeers({first.peer()});
    a.link().Send(2, Numbered(1));
    ASSERT_TRUE(first.Hears(1));
    EXPECT_EQ(a.Of(2).session, 7u);
  }
  ASSERT_TRUE(Eventually([&] { return !a.Of(2).connected; }));
  LinkNode second({.id = 2, .session = 8, .port = port});
  a.link().Send(2, Numbered(2));
  ASSERT_TRUE(second.Hears(2));
  EXPECT_EQ(a.Of(2).session, 8u);
  EXPECT_EQ(a.link().Tell().reconnects, 1u);
}

TEST(DirectoryLink, APeerWhosePacketsVanishIsNoticedAndHoldsUpNobody) {
  LinkNode a({.id = 1}), b({.id = 2}), c({.id = 3});
  FreezingRelay relay(b.peer().address);
  a.link().SetPeers({{2, relay.address()}, c.peer()});
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(b.Hears(1));
  relay.Freeze();
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t number = 2; number <= 20'000; ++number) a.link().Send(2, directory::Recall{number, std::string(500, 'n')});
  a.link().Send(3, Numbered(2));
  ASSERT_TRUE(c.Hears(2));
  EXPECT_TRUE(a.Of(2).connected) << "the other was told long before this peer is given up";
  ASSERT_TRUE(Eventually([&] { return !a.Of(2).connected; }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(4000));
  relay.Thaw();
  a.link().Send(2, Numbered(30'000));
  EXPECT_TRUE(b.Hears(30'000));
}

// Nothing is sent: only the questions whether the peer is there, which it must not take for abuse.
TEST(DirectoryLink, AnIdleStreamLastsUntilItsPeerIsGone) {
  LinkNode a({.id = 1}), b({.id = 2});
  FreezingRelay relay(b.peer().address);
  a.link().SetPeers({{2, relay.address()}});
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(b.Hears(1));
  const auto four_questions = std::chrono::steady_clock::now() + std::chrono::milliseconds(4500);
  ASSERT_TRUE(Eventually([&] { return !a.Of(2).connected || std::chrono::steady_clock::now() > four_questions; }));
  ASSERT_TRUE(a.Of(2).connected) << a.Of(2).error;
  relay.Freeze();
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(Eventually([&] { return !a.Of(2).connected; }));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(4000));
  EXPECT_EQ(a.link().Tell().reconnects, 0u);
}

TEST(DirectoryLink, APeerThatNeverReadsHoldsUpNobody) {
  const UniqueFd mute = *ListenTcp("127.0.0.1", 0);
  LinkNode a({.id = 1, .queue_bytes = 512 * 1024}), b({.id = 3});
  a.link().SetPeers({{2, TcpAddress("127.0.0.1", *BoundPort(mute.get()))}, b.peer()});
  for (uint64_t number = 1; number <= 5000; ++number) {
    for (int i = 0; i < 4; ++i) a.link().Send(2, Numbered(number));  // more than may wait
    a.link().Send(3, Numbered(number));
  }
  ASSERT_TRUE(b.Hears(5000));
  EXPECT_EQ(b.numbers().size(), 5000u);
  EXPECT_LE(a.Of(2).queued_bytes, 512u * 1024);
  EXPECT_GT(a.link().Tell().messages_dropped, 0u);
}

TEST(DirectoryLink, AFullQueueLosesItsOldest) {
  const int port = FreePort();
  LinkNode a({.id = 1, .queue_bytes = 16 * 1024});
  a.link().SetPeers({{2, TcpAddress("127.0.0.1", port)}});
  constexpr uint64_t kSent = 2000;
  for (uint64_t number = 1; number <= kSent; ++number) a.link().Send(2, Numbered(number));
  EXPECT_LE(a.Of(2).queued_bytes, 16u * 1024);
  EXPECT_GT(a.Of(2).queued_bytes, 15u * 1024);
  LinkNode b({.id = 2, .port = port});
  ASSERT_TRUE(b.Hears(kSent));
  const std::vector<uint64_t> numbers = b.numbers();
  EXPECT_LT(numbers.size(), 300u);
  EXPECT_EQ(numbers.front(), kSent + 1 - numbers.size()) << "all from there on";
  EXPECT_EQ(a.link().Tell().messages_dropped, kSent - numbers.size());
}

TEST(DirectoryLink, AMessageThatCannotTravelIsDroppedAlone) {
  LinkNode a({.id = 1, .queue_bytes = 16 * 1024}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  a.link().Send(2, Bulk(1, 64 * 1024));
  a.link().Send(9, Numbered(1));  // nobody
  a.link().Send(1, Numbered(1));  // itself
  EXPECT_EQ(a.link().Tell().messages_dropped, 3u);
  a.link().Send(2, Numbered(2));
  EXPECT_TRUE(b.Hears(2));
}

TEST(DirectoryLink, PeersLeaveAndMove) {
  LinkNode a({.id = 1}), here({.id = 2}), there({.id = 2});
  a.link().SetPeers({a.peer(), here.peer()});
  ASSERT_EQ(a.link().Tell().peers.size(), 1u) << "not itself";
  a.link().Send(2, Numbered(1));
  ASSERT_TRUE(here.Hears(1));
  a.link().SetPeers({here.peer()});
  EXPECT_TRUE(a.Of(2).connected) << "nothing has changed";
  a.link().SetPeers({there.peer()});
  a.link().Send(2, Numbered(2));
  ASSERT_TRUE(there.Hears(2));
  EXPECT_EQ(here.numbers(), std::vector<uint64_t>{1});
  a.link().SetPeers({});
  a.link().Send(2, Numbered(3));
  EXPECT_TRUE(a.link().Tell().peers.empty());
  EXPECT_EQ(a.link().Tell().messages_dropped, 1u);
}

TEST(DirectoryLink, ANewerStreamOfANodeEndsItsOlder) {
  LinkNode old({.id = 1, .session = 1}), fresh({.id = 1, .session = 2}), b({.id = 2});
  old.link().SetPeers({b.peer()});
  old.link().Send(2, Numbered(1));
  old.link().Send(2, Bulk(1, 1000));
  ASSERT_TRUE(Eventually([&] { return b.told().size() == 2; }));
  fresh.link().SetPeers({b.peer()});
  fresh.link().Send(2, Numbered(2));
  ASSERT_TRUE(b.Hears(2));
  EXPECT_TRUE(Eventually([&] { return !old.Of(2).connected; }));
  EXPECT_TRUE(old.Of(2).bulk_connected) << "of another sort";
}

TEST(DirectoryLink, AfterStopNothingIsDelivered) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  std::atomic<bool> stop{false};
  std::thread sender([&] {
    for (uint64_t number = 1; !stop.load(); ++number) a.link().Send(2, Numbered(number));
  });
  ASSERT_TRUE(b.Hears(1000));
  b.link().Stop();
  const size_t told = b.told().size();
  ASSERT_TRUE(Eventually([&] { return a.Of(2).error == "the node is stopping"; })) << "it has asked again";
  stop.store(true);
  sender.join();
  EXPECT_EQ(b.told().size(), told);
  a.link().Stop();
  const uint64_t sent = a.link().Tell().messages_sent;
  a.link().Send(2, Numbered(1));
  EXPECT_EQ(a.link().Tell().messages_sent, sent);
  EXPECT_EQ(a.Of(2).queued_bytes, 0u);
}

TEST(DirectoryLink, ManyThreadsMaySend) {
  LinkNode a({.id = 1}), b({.id = 2});
  a.link().SetPeers({b.peer()});
  constexpr uint64_t kThreads = 4, kEach = 2000;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kEach; ++i) a.link().Send(2, Numbered(1 + t * kEach + i));
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(Eventually([&] { return b.numbers().size() == kThreads * kEach; }));
  std::vector<uint64_t> numbers = b.numbers();
  for (uint64_t t = 0; t < kThreads; ++t) {  // each thread's own in their order
    std::vector<uint64_t> of_thread;
    std::copy_if(numbers.begin(), numbers.end(), std::back_inserter(of_thread), [&](uint64_t n) { return (n - 1) / kEach == t; });
    EXPECT_TRUE(std::is_sorted(of_thread.begin(), of_thread.end()));
    EXPECT_EQ(of_thread.size(), kEach);
  }
}

}  // namespace
}  // namespace penstock::server
