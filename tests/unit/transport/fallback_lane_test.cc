#include "transport/lane/fallback_lane.h"

#include <gtest/gtest.h>

#include <vector>

namespace penstock {
namespace {

// Gives each transfer the next of the results.
class ScriptedLane final : public Lane {
 public:
  ScriptedLane(std::string_view name, std::vector<absl::Status> results) : name_(name), results_(std::move(results)) {}
  std::string_view name() const override { return name_; }
  void Run(absl::Span<Transfer> transfers, const RunOptions& options) override {
    timeouts.push_back(options.timeout);
    for (Transfer& transfer : transfers) {
      grants.push_back(transfer.grant);
      transfer.status = results_.empty() ? absl::OkStatus() : results_.front();
      if (!results_.empty()) results_.erase(results_.begin());
    }
  }
  std::vector<uint64_t> grants;  // that were asked for
  std::vector<absl::Duration> timeouts;

 private:
  const std::string_view name_;
  std::vector<absl::Status> results_;
};

struct Pair {
  explicit Pair(std::vector<absl::Status> of_first, std::vector<absl::Status> of_second = {})
      : first(new ScriptedLane("first", std::move(of_first))), second(new ScriptedLane("second", std::move(of_second))),
        lane(std::unique_ptr<Lane>(first), std::unique_ptr<Lane>(second)) {}
  std::vector<Transfer> Run(size_t count) {
    std::vector<Transfer> transfers(count);
    for (size_t i = 0; i < count; ++i) transfers[i].grant = i;
    lane.Run(absl::MakeSpan(transfers), {.timeout = absl::Seconds(10)});
    return transfers;
  }
  ScriptedLane* const first;
  ScriptedLane* const second;
  FallbackLane lane;
};

TEST(FallbackLane, WhatTheFirstDoesTheSecondIsNotAsked) {
  Pair pair({});
  for (const Transfer& transfer : pair.Run(3)) EXPECT_TRUE(transfer.status.ok());
  EXPECT_TRUE(pair.second->grants.empty());
  EXPECT_EQ(pair.lane.name(), "first");
}

TEST(FallbackLane, OnlyWhatTheFirstCouldNotBringIsAskedOfTheSecond) {
  Pair pair({absl::OkStatus(), absl::UnavailableError("gone"), absl::DeadlineExceededError("late"), absl::PermissionDeniedError("no"), absl::CancelledError("")});
  const std::vector<Transfer> done = pair.Run(5);
  EXPECT_EQ(pair.second->grants, (std::vector<uint64_t>{1, 2}));
  for (size_t i : {0, 1, 2}) EXPECT_TRUE(done[i].status.ok()) << i;
  EXPECT_TRUE(absl::IsPermissionDenied(done[3].status));
  EXPECT_TRUE(absl::IsCancelled(done[4].status));
}

TEST(FallbackLane, AfterAFailureTheSecondIsUsedAloneForAWhile) {
  Pair pair({absl::UnavailableError("gone")});
  pair.Run(1);
  EXPECT_EQ(pair.lane.name(), "second");
  pair.Run(2);
  EXPECT_EQ(pair.first->grants.size(), 1u);
  EXPECT_EQ(pair.second->grants.size(), 3u);
}

TEST(FallbackLane, TheResultIsTheSecondsAndTheFirstLeavesItHalfOfTheTime) {
  Pair pair({absl::UnavailableError("gone")}, {absl::InternalError("broken")});
  EXPECT_EQ(pair.Run(1)[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(pair.first->timeouts[0], absl::Seconds(5));
  EXPECT_GT(pair.second->timeouts[0], absl::Seconds(4));
}

}  // namespace
}  // namespace penstock
