// The simulation as a test: thousands of schedules in which everything must hold, and every rule, broken on purpose, must be
// missed. A failure prints its seed: directory_simulation --seed S --verbose [--break RULE] shows it again.
#include <chrono>
#include <string>

#include "gtest/gtest.h"
#include "server/directory/rules.h"
#include "tests/unit/server/directory/history.h"
#include "tests/unit/server/directory/simulation.h"

namespace penstock::server::directory {
namespace {

constexpr uint64_t kSchedules = 2000;
constexpr auto kLongest = std::chrono::seconds(40);  // on a busy machine: what was run until then

TEST(DirectorySimulation, EverythingHoldsUnderFaults) {
  const auto start = std::chrono::steady_clock::now();
  uint64_t done = 0, calls = 0, undecided = 0;
  for (; done < kSchedules && std::chrono::steady_clock::now() - start < kLongest; ++done) {
    const uint64_t seed = 1 + done;
    const ScheduleResult result = RunSchedule(seed);
    ASSERT_EQ(result.failure, "") << "seed " << seed;
    calls += result.calls;
    undecided += result.undecided;
  }
  EXPECT_GE(done, 100u);
  EXPECT_GE(calls, 50 * done) << "the clients hardly did anything";
  EXPECT_LE(undecided * 100, done) << "histories too wide for the checker";
}

TEST(DirectorySimulation, TheSameSeedIsTheSameSchedule) {
  for (const uint64_t seed : {7u, 19u}) {
    const ScheduleResult first = RunSchedule(seed), second = RunSchedule(seed);
    EXPECT_EQ(first.events, second.events);
    EXPECT_EQ(first.calls, second.calls);
  }
}

struct BrokenRule {
  Rule rule;
  const char* name;
  uint64_t within;  // schedules
};

class DirectoryRules : public testing::TestWithParam<BrokenRule> {
 protected:
  void TearDown() override { broken_rule = Rule::kNone; }
};

TEST_P(DirectoryRules, AreMissedWhenBroken) {
  broken_rule = GetParam().rule;
  for (uint64_t seed = 1; seed <= GetParam().within; ++seed) {
    if (!RunSchedule(seed).failure.empty()) return;
  }
  FAIL() << GetParam().name << " is broken, and " << GetParam().within << " schedules saw nothing";
}

INSTANTIATE_TEST_SUITE_P(
    Broken, DirectoryRules,
    testing::Values(BrokenRule{Rule::kPromise, "Promise", 50}, BrokenRule{Rule::kBackupWaited, "BackupWaited", 200},
                    BrokenRule{Rule::kSupersedeWaited, "SupersedeWaited", 200},
                    BrokenRule{Rule::kLeaseAtHolder, "LeaseAtHolder", 200},
                    BrokenRule{Rule::kLeaseAtHome, "LeaseAtHome", 3000},
                    BrokenRule{Rule::kReturningConfirmed, "ReturningConfirmed", 200},
                    BrokenRule{Rule::kNameLeaseWaited, "NameLeaseWaited", 300},
                    BrokenRule{Rule::kOperationOnce, "OperationOnce", 300},
                    BrokenRule{Rule::kUnknownDropped, "UnknownDropped", 500},
                    BrokenRule{Rule::kVerdictCurrent, "VerdictCurrent", 3000},
                    BrokenRule{Rule::kAllAnswer, "AllAnswer", 300}, BrokenRule{Rule::kActivation, "Activation", 1500}),
    [](const testing::TestParamInfo<BrokenRule>& info) { return info.param.name; });

// ---- the judge itself ----

Call PutCall(Time begin, Time end, uint64_t value, CallResult result = CallResult::kDone) {
  Call call{CallKind::kPut, result, begin, end, value};
  return call;
}
Call GetCall(Time begin, Time end, uint64_t value) {
  return {CallKind::kGet, value ? CallResult::kDone : CallResult::kAbsent, begin, end, value};
}

TEST(History, TakesWhatHasAnOrder) {
  EXPECT_EQ(CheckLinearizable({}), HistoryVerdict::kRight);
  EXPECT_EQ(CheckLinearizable({GetCall(0, 1, 0), PutCall(2, 5, 1), GetCall(3, 4, 1), GetCall(3, 4, 0)}),
            HistoryVerdict::kRight);
  // A put without an answer may happen late, or never.
  EXPECT_EQ(CheckLinearizable({PutCall(0, kForever, 1, CallResult::kUnknown), GetCall(1, 2, 0), GetCall(3, 4, 1)}),
            HistoryVerdict::kRight);
}

TEST(History, RefusesWhatHasNone) {
  EXPECT_EQ(CheckLinearizable({PutCall(0, 1, 1), GetCall(2, 3, 0)}), HistoryVerdict::kWrong);
  EXPECT_EQ(CheckLinearizable({PutCall(0, 1, 1), PutCall(2, 3, 2), GetCall(4, 5, 1)}), HistoryVerdict::kWrong);
  // Seen once, a put has happened; it cannot be undone.
  EXPECT_EQ(CheckLinearizable({PutCall(0, kForever, 1, CallResult::kUnknown), GetCall(1, 2, 1), GetCall(3, 4, 0)}),
            HistoryVerdict::kWrong);
  // Two puts that both say they found nothing.
  Call first = PutCall(0, 9, 1), second = PutCall(1, 8, 2);
  first.if_absent = second.if_absent = true;
  EXPECT_EQ(CheckLinearizable({first, second}), HistoryVerdict::kWrong);
  second.result = CallResult::kConflict;
  EXPECT_EQ(CheckLinearizable({first, second}), HistoryVerdict::kRight);
}

}  // namespace
}  // namespace penstock::server::directory
