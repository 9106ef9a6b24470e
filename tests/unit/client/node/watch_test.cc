#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Floats;
using testing::NodeProcess;
using testing::Ref;

class Watching : public ::testing::Test {
 protected:
  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
  const std::vector<float> value_ = Floats(10, 0);

  static std::vector<TensorEvent> Collect(Watcher& watcher, size_t count) {
    std::vector<TensorEvent> events;
    while (events.size() < count) {
      const auto more = watcher.Next(absl::Seconds(10));
      EXPECT_TRUE(more.ok()) << more.status();
      if (!more.ok() || more->empty()) break;
      events.insert(events.end(), more->begin(), more->end());
    }
    return events;
  }
};

TEST_F(Watching, SeesWhatHappensAfterItBeganUnderItsPrefix) {
  ASSERT_TRUE(client_->Put("a/before", Ref(value_)).ok());
  auto watcher = client_->Watch({.prefix = "a/"});
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  ASSERT_TRUE(client_->Put("b/other", Ref(value_)).ok());
  const auto put = client_->Put("a/x", Ref(value_));
  ASSERT_TRUE(client_->Delete("a/x").value());
  const auto events = Collect(**watcher, 2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, TensorEvent::Kind::kPut);
  EXPECT_EQ(events[0].info.name, "a/x");
  EXPECT_EQ(events[0].info.version, put->version);
  EXPECT_EQ(events[1].kind, TensorEvent::Kind::kDelete);
  EXPECT_LT(events[0].sequence, events[1].sequence);
  EXPECT_TRUE((*watcher)->Next(absl::Milliseconds(1))->empty());
}

TEST_F(Watching, GoesOnAfterASequence) {
  auto first = client_->Watch({.prefix = "a/"});
  ASSERT_TRUE(client_->Put("a/1", Ref(value_)).ok());
  ASSERT_TRUE(client_->Put("a/2", Ref(value_)).ok());
  const auto seen = Collect(**first, 2);
  ASSERT_EQ(seen.size(), 2u);
  auto second = client_->Watch({.prefix = "a/", .after_sequence = seen[0].sequence});
  const auto again = Collect(**second, 1);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].info.name, "a/2");
}

TEST_F(Watching, OutlivesItsClientAndWakesWithAnEvent) {
  const auto other = node_.Connect();
  auto watcher = *client_->Watch({.prefix = ""});
  client_.reset();
  std::thread putter([&] { EXPECT_TRUE(other->Put("late", Ref(value_)).ok()); });
  EXPECT_EQ(Collect(*watcher, 1).size(), 1u);
  putter.join();
}

TEST_F(Watching, WaitReturnsWhenTheVersionComes) {
  const uint64_t first = client_->Put("w", Ref(value_))->version.number;
  EXPECT_EQ(client_->Wait("w", 0, absl::ZeroDuration())->version.number, first);
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      client_->Wait("w", first + 1, absl::Milliseconds(20)).status()));
  const auto other = node_.Connect();
  std::thread putter([&] { EXPECT_TRUE(other->Put("w", Ref(value_)).ok()); });
  EXPECT_GT(client_->Wait("w", first + 1, absl::Seconds(10))->version.number, first);
  putter.join();
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(client_->Get("no", {.wait = absl::Milliseconds(20)}).status()));
}

}  // namespace
}  // namespace penstock
