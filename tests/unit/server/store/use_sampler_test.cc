// What pin tables tell of what is used.
#include "server/store/use_sampler.h"

#include <gtest/gtest.h>

#include "tests/unit/server/store/store_fixture.h"

namespace penstock::server {
namespace {

class UseSamplerTest : public StoreTest {
 protected:
  void Write(const Session& session, uint32_t slot, uint64_t word) {
    const_cast<std::atomic<uint64_t>*>(session.pins()[0].words())[slot].store(word);
  }
  std::vector<uint64_t> Look(const HeldPins& held = {}) {
    std::vector<uint64_t> used;
    sampler_.Look(store_->Sessions(), held, [&](uint64_t pin) { used.push_back(pin); });
    return used;
  }
  UseSampler sampler_;
};

TEST_F(UseSamplerTest, PinsAndTracesAreSeenOnceUntilTheyChange) {
  const auto session = NewSession();
  EXPECT_TRUE(Look().empty());
  const uint64_t pin = layout::PinWord(640, 5);
  Write(*session, 100, pin);
  EXPECT_EQ(Look(), (std::vector<uint64_t>{pin}));
  EXPECT_TRUE(sampler_.IsPinned(pin));
  EXPECT_TRUE(Look().empty());
  EXPECT_TRUE(sampler_.IsPinned(pin));
  Write(*session, 100, pin & ~uint64_t{1});  // let go
  EXPECT_EQ(Look(), (std::vector<uint64_t>{pin}));
  EXPECT_FALSE(sampler_.IsPinned(pin));
  EXPECT_TRUE(Look().empty());
}

TEST_F(UseSamplerTest, WhatTheNodeHoldsIsPinned) {
  const uint64_t pin = layout::PinWord(640, 5);
  (void)Look({{pin, 1}});
  EXPECT_TRUE(sampler_.IsPinned(pin));
}

TEST_F(UseSamplerTest, ATraceIsNoPin) {
  auto session = NewSession();
  const Published tensor = Put(*session, Spec("a", 4096)).value();
  Write(*session, 7, layout::PinWord(tensor.record, tensor.record_seq) & ~uint64_t{1});
  EXPECT_EQ(Df().pins(), 0u);
  ASSERT_TRUE(store_->Delete("a", 0).ok());
  EXPECT_EQ(Df().retired(), 0u);
}

// Without the trace "hot" would be the first to go.
TEST_F(UseSamplerTest, TracesKeepWhatIsUsedInMemory) {
  auto session = NewSession();
  const auto put = [&](const std::string& name) {
    CreateSpec spec = Spec(name, 1 << 20);
    spec.keep = false;
    return Put(*session, spec).value();
  };
  const Published hot = put("hot");
  for (int i = 0; i < 300; ++i) {
    // Ever another slot, as a thread takes them.
    Write(*session, static_cast<uint32_t>(i % 32), layout::PinWord(hot.record, hot.record_seq) & ~uint64_t{1});
    Write(*session, static_cast<uint32_t>((i + 1) % 32), 0);
    put("scan/" + std::to_string(i));
    (void)store_->Maintain();
    absl::SleepFor(absl::Milliseconds(3));
  }
  EXPECT_TRUE(store_->Lookup("hot", 0).ok());
  EXPECT_FALSE(store_->Lookup("scan/0", 0).ok());
}

TEST_F(UseSamplerTest, NonsenseInAPinTableHarmsNobody) {
  auto session = NewSession();
  for (uint32_t slot = 0; slot < layout::kPinsPerChunk; ++slot) Write(*session, slot, 0x9e3779b97f4a7c15ull * (slot + 1));
  for (int i = 0; i < 100; ++i) {
    const std::string name = "t/" + std::to_string(i);
    CreateSpec spec = Spec(name, 1 << 20);
    spec.keep = false;
    ASSERT_TRUE(Put(*session, spec).ok()) << i;
  }
  EXPECT_GT(Df().evictions(), 30u);
}

}  // namespace
}  // namespace penstock::server
