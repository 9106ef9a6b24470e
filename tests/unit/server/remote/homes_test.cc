#include "server/remote/homes.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock::server {
namespace {

// Peers that nobody listens for: nothing here calls them.
class HomesTest : public testing::Test {
 protected:
  static std::vector<PeerRef> PeersAt(const std::vector<std::string>& addresses) {
    std::vector<PeerRef> peers;
    for (const std::string& address : addresses) peers.push_back(std::make_shared<PeerNode>(address, nullptr, TlsFiles{}, PeerNode::Lanes{}));
    return peers;
  }
  const std::vector<PeerRef> peers_ = PeersAt({"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"});
  const PeerTable table_{peers_};
  Homes homes_{&table_, /*new_names_at_peers=*/false};
};

TEST_F(HomesTest, EverybodyIsAskedAboutWhatNobodyHasOnceAndAboutAllOfItAtOnce) {
  std::mutex mutex;
  std::map<PeerNode*, std::vector<std::vector<size_t>>> asked;
  const std::vector<std::string_view> names = {"a", "b", "c"};
  homes_.Find(names, [&](const PeerRef& peer, absl::Span<const size_t> which) {
    std::lock_guard lock(mutex);
    asked[peer.get()].emplace_back(which.begin(), which.end());
    return std::vector<bool>(which.size(), false);
  });
  EXPECT_EQ(asked.size(), 3u);
  for (const auto& [peer, calls] : asked) EXPECT_EQ(calls, (std::vector<std::vector<size_t>>{{0, 1, 2}}));
}

TEST_F(HomesTest, WhatWasFoundIsAskedForNowhereElse) {
  int calls = 0;
  const std::vector<std::string_view> names = {"a", "b"};
  homes_.Find(names, [&](const PeerRef& peer, absl::Span<const size_t> which) {
    ++calls;
    if (peer == peers_[0]) return std::vector<bool>{false, true};  // has b
    EXPECT_EQ(which.size(), 1u);
    EXPECT_EQ(which[0], 0u);
    return std::vector<bool>{peer == peers_[1]};
  });
  EXPECT_EQ(calls, 2);
}

TEST_F(HomesTest, WhereANameWasFoundIsAskedFirst) {
  EXPECT_EQ(homes_.InOrder("a")[0], peers_[0]);
  homes_.Found("a", peers_[2]);
  EXPECT_EQ(homes_.InOrder("a"), (std::vector<PeerRef>{peers_[2], peers_[0], peers_[1]}));
  EXPECT_EQ(homes_.InOrder("b")[0], peers_[0]);
  homes_.Found("a", peers_[1]);
  EXPECT_EQ(homes_.InOrder("a")[0], peers_[1]);
}

TEST_F(HomesTest, NamesOfDifferentHomesAreFoundInOneRoundOnTheSecondTime) {
  std::vector<std::string> texts;
  for (int i = 0; i < 30; ++i) texts.push_back(StrCat("name/", i));
  const std::vector<std::string_view> names(texts.begin(), texts.end());
  std::mutex mutex;
  int calls = 0;
  const auto ask = [&](const PeerRef& peer, absl::Span<const size_t> which) {
    std::vector<bool> found;
    for (const size_t i : which) found.push_back(peer == peers_[i % 3]);
    std::lock_guard lock(mutex);
    ++calls;
    return found;
  };
  homes_.Find(names, ask);
  EXPECT_EQ(calls, 3);
  calls = 0;
  homes_.Find(names, [&](const PeerRef& peer, absl::Span<const size_t> which) {
    EXPECT_EQ(which.size(), 10u);
    return ask(peer, which);
  });
  EXPECT_EQ(calls, 3);
}

TEST_F(HomesTest, NothingToFindAndNobodyToAskAreNoTrouble) {
  const auto never = [](const PeerRef&, absl::Span<const size_t>) -> std::vector<bool> { ADD_FAILURE(); return {}; };
  homes_.Find({}, never);
  const PeerTable nobody;
  const std::vector<std::string_view> names = {"a"};
  Homes(&nobody, true).Find(names, never);
  EXPECT_EQ(Homes(&nobody, true).ForNew("a"), nullptr);
}

TEST_F(HomesTest, WhatIsForgottenIsOnlyAskedForInTheOldOrder) {
  for (size_t i = 0; i <= Homes::kRemembered; ++i) homes_.Found(StrCat(i), peers_[2]);
  EXPECT_EQ(homes_.InOrder("0")[0], peers_[0]);
  EXPECT_EQ(homes_.InOrder(StrCat(Homes::kRemembered))[0], peers_[2]);
}

TEST_F(HomesTest, NewNamesStayHereUnlessPeersAreToHaveThem) {
  EXPECT_EQ(homes_.ForNew("a"), nullptr);
  EXPECT_NE(Homes(&table_, true).ForNew("a"), nullptr);
}

TEST_F(HomesTest, NamesOfOneHomeAreNotGivenToPeersThatHaveNeverAnswered) {
  const std::string name = StrCat(kOneHomeFolder, "w");
  EXPECT_EQ(Homes(&table_, false, "00ff").ForNew(name), nullptr);
  EXPECT_EQ(Homes(&table_, true, "00ff").ForNew(name), nullptr);
}

TEST_F(HomesTest, NewNamesAreSpreadAlikeWhateverTheOrderOfThePeersIs) {
  const PeerTable other{PeersAt({"127.0.0.1:3", "127.0.0.1:1", "127.0.0.1:2"})};
  const Homes one(&table_, true), two(&other, true);
  std::map<std::string, int> count;
  for (int i = 0; i < 3000; ++i) {
    const std::string name = StrCat("model/", i);
    EXPECT_EQ(one.ForNew(name)->address(), two.ForNew(name)->address());
    ++count[one.ForNew(name)->address()];
  }
  for (const auto& [address, names] : count) EXPECT_NEAR(names, 1000, 150) << address;
}

}  // namespace
}  // namespace penstock::server
