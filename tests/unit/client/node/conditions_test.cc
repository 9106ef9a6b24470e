#include <gtest/gtest.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Floats;
using testing::InChild;
using testing::NodeProcess;
using testing::Ref;

class Conditions : public ::testing::Test {
 protected:
  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
  const std::vector<float> value_ = Floats(100, 0);
};

TEST_F(Conditions, VersionsGrowAndMayBeGiven) {
  const uint64_t first = client_->Put("v", Ref(value_))->version.number;
  EXPECT_GT(client_->Put("v", Ref(value_))->version.number, first);
  EXPECT_EQ(client_->Put("v", Ref(value_), {.version = 1000})->version.number, 1000u);
  EXPECT_TRUE(absl::IsAborted(client_->Put("v", Ref(value_), {.version = 1000}).status()));
  EXPECT_TRUE(client_->Delete("v").value());
  EXPECT_GT(client_->Put("v", Ref(value_))->version.number, 1000u);
}

TEST_F(Conditions, IfAbsentAndIfVersion) {
  EXPECT_TRUE(client_->Put("c", Ref(value_), {.if_absent = true}).ok());
  EXPECT_TRUE(
      absl::IsAlreadyExists(client_->Put("c", Ref(value_), {.if_absent = true}).status()));
  EXPECT_TRUE(absl::IsAborted(client_->Put("c", Ref(value_), {.if_version = 0}).status()));
  const uint64_t present = client_->Stat("c")->version.number;
  EXPECT_TRUE(
      absl::IsAborted(client_->Put("c", Ref(value_), {.if_version = present + 1}).status()));
  EXPECT_TRUE(client_->Put("c", Ref(value_), {.if_version = present}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(
      client_->Put("c", Ref(value_), {.if_absent = true, .if_version = 3}).status()));
}

TEST_F(Conditions, GetAndDeleteOfAVersion) {
  const uint64_t first = client_->Put("g", Ref(value_))->version.number;
  const uint64_t second = client_->Put("g", Ref(value_))->version.number;
  EXPECT_TRUE(absl::IsNotFound(client_->Get("g", {.version = first}).status()));
  EXPECT_EQ(client_->Get("g", {.version = second})->version().number, second);
  EXPECT_FALSE(client_->Delete("g", first).value());
  EXPECT_TRUE(client_->Delete("g", second).value());
  EXPECT_FALSE(client_->Exists("g").value());
  EXPECT_FALSE(client_->Delete("g").value());
}

TEST_F(Conditions, GetOrCreateMakesOnceAmongThreadsAndProcesses) {
  std::atomic<int> made{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      const auto view = client_->GetOrCreate(
          "single",
          [&](Client& client) {
            ++made;
            return client.Put("single", Ref(value_)).status();
          },
          absl::Seconds(10));
      EXPECT_TRUE(view.ok()) << view.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made.load(), 1);
}

TEST_F(Conditions, GetOrCreateSurvivesTheDeathOfTheMaker) {
  const pid_t child = testing::ForkChild([&] {
    (void)client_->GetOrCreate(
        "orphan",
        [&](Client& client) {
          (void)client.Put("started", Ref(value_));
          pause();
          return absl::OkStatus();
        },
        absl::Seconds(10));
    return 0;
  });
  ASSERT_TRUE(client_->Wait("started", 0, absl::Seconds(10)).ok());
  const auto refused = client_->GetOrCreate(
      "orphan", [](Client&) { return absl::InternalError("not while it is being made"); },
      absl::Milliseconds(150));
  EXPECT_TRUE(absl::IsDeadlineExceeded(refused.status())) << refused.status();
  kill(child, SIGKILL);
  const auto view = client_->GetOrCreate(
      "orphan", [&](Client& client) { return client.Put("orphan", Ref(value_)).status(); },
      absl::Seconds(10));
  EXPECT_TRUE(view.ok()) << view.status();
  waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace penstock
