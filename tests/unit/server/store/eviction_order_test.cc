// Which tensor goes first: new ones before those that are used again, soft pins last.
#include "server/store/eviction_order.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace penstock::server {
namespace {

using layout::RecordRef;

class EvictionOrderTest : public ::testing::Test {
 protected:
  void Add(RecordRef ref, bool soft_pin = false, uint64_t nbytes = 100) { order_.Add({.ref = ref, .nbytes = nbytes, .name_hash = ref, .soft_pin = soft_pin}); }
  RecordRef EvictOne() {
    EvictionOrder::Walk walk = order_.Begin();
    const RecordRef ref = order_.Next(&walk);
    order_.Evict(ref);
    return ref;
  }
  std::vector<RecordRef> EvictAll() {
    std::vector<RecordRef> gone;
    while (order_.count() > 0) gone.push_back(EvictOne());
    return gone;
  }
  EvictionOrder order_;
};

TEST_F(EvictionOrderTest, EmptyOffersNothing) {
  EvictionOrder::Walk walk = order_.Begin();
  EXPECT_EQ(order_.Next(&walk), 0u);
  order_.Remove(7);
  order_.Touch(7);
  order_.Pass(7);
  EXPECT_EQ(order_.bytes(), 0u);
}

TEST_F(EvictionOrderTest, UnusedGoInTheOrderInWhichTheyCame) {
  for (RecordRef ref = 1; ref <= 5; ++ref) Add(ref);
  EXPECT_EQ(order_.bytes(), 500u);
  EXPECT_EQ(EvictAll(), (std::vector<RecordRef>{1, 2, 3, 4, 5}));
  EXPECT_EQ(order_.bytes(), 0u);
}

TEST_F(EvictionOrderTest, AScanDoesNotPushOutWhatIsUsedAgainAndAgain) {
  constexpr size_t kRoom = 100;
  std::set<RecordRef> there;
  for (RecordRef hot = 1; hot <= 50; ++hot) {
    Add(hot);
    order_.Touch(hot);
    order_.Touch(hot);
    there.insert(hot);
  }
  for (RecordRef scanned = 1000; scanned < 6000; ++scanned) {
    order_.Touch(1 + scanned % 50);
    if (scanned % 7 == 0) order_.Touch(scanned - 1);  // read once, as a scan does
    Add(scanned);
    there.insert(scanned);
    while (order_.count() > kRoom) there.erase(EvictOne());
  }
  for (RecordRef hot = 1; hot <= 50; ++hot) EXPECT_TRUE(there.contains(hot)) << hot;
}

TEST_F(EvictionOrderTest, OneUseIsNoReasonToStay) {
  Add(1);
  Add(2);
  order_.Touch(1);
  EXPECT_EQ(EvictOne(), 1u);
}

TEST_F(EvictionOrderTest, WhatComesBackSoonAfterItWentOutlastsTheNew) {
  for (RecordRef ref = 1; ref <= 20; ++ref) Add(ref);
  EXPECT_EQ(EvictOne(), 1u);
  Add(1);
  const std::vector<RecordRef> gone = EvictAll();
  EXPECT_EQ(gone.back(), 1u);
}

TEST_F(EvictionOrderTest, WhatWasUsedInThePastAndNeverAgainGoes) {
  for (RecordRef old = 1; old <= 10; ++old) Add(old);
  for (int i = 0; i < 3; ++i) {
    for (RecordRef old = 1; old <= 10; ++old) order_.Touch(old);
  }
  Add(11);
  for (RecordRef next = 12; next < 200; ++next) {
    EvictOne();
    Add(next);
    order_.Touch(next);
    order_.Touch(next);
  }
  for (RecordRef old = 1; old <= 10; ++old) EXPECT_FALSE(order_.Has(old)) << old;
}

TEST_F(EvictionOrderTest, SoftPinsGoWhenAllOthersHaveGone) {
  Add(1, /*soft_pin=*/true);
  Add(2);
  Add(3, /*soft_pin=*/true);
  Add(4);
  for (int i = 0; i < 5; ++i) order_.Touch(4);
  EXPECT_EQ(EvictAll(), (std::vector<RecordRef>{2, 4, 1, 3}));
}

TEST_F(EvictionOrderTest, AWalkOffersEachOnceAndSoftPinsLast) {
  for (RecordRef ref = 1; ref <= 10; ++ref) Add(ref, ref % 2 == 0);
  std::vector<RecordRef> offered;
  EvictionOrder::Walk walk = order_.Begin();
  while (const RecordRef ref = order_.Next(&walk)) {
    offered.push_back(ref);
    order_.Pass(ref);
  }
  EXPECT_EQ(std::set<RecordRef>(offered.begin(), offered.end()).size(), 10u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(offered[i] % 2, 1u);
  EXPECT_EQ(order_.count(), 10u);
}

TEST_F(EvictionOrderTest, BooksAgreeAfterAnythingAtRandom) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  std::set<RecordRef> model;
  for (int step = 0; step < 20000; ++step) {
    const RecordRef ref = 1 + random() % 200;
    switch (random() % 6) {
      case 0:
      case 1:
        if (model.insert(ref).second) Add(ref, random() % 4 == 0, 10);
        break;
      case 2: order_.Touch(ref); break;
      case 3: order_.Pass(ref); break;
      case 4:
        order_.Remove(ref);
        model.erase(ref);
        break;
      default:
        if (!model.empty()) {
          const RecordRef gone = EvictOne();
          ASSERT_EQ(model.erase(gone), 1u);
        }
    }
    ASSERT_EQ(order_.count(), model.size());
    ASSERT_EQ(order_.bytes(), 10 * model.size());
  }
}

}  // namespace
}  // namespace penstock::server
