#include "server/remote/remote_jobs.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace penstock::server {
namespace {

RemoteJobs::Result Text(std::string text) { return {.status = absl::OkStatus(), .response = std::move(text)}; }

TEST(RemoteJobs, AResultIsThereWhenItsKeyIsTold) {
  RemoteJobs jobs;
  absl::Notification told;
  std::atomic<uint64_t> done{0};
  jobs.OnDone([&](uint64_t key) {
    done.store(key);
    told.Notify();
  });
  const uint64_t key = jobs.Start([] { return Text("made"); });
  told.WaitForNotification();
  EXPECT_EQ(done.load(), key);
  EXPECT_EQ(jobs.Take(key)->response, "made");
  EXPECT_FALSE(jobs.Take(key).has_value()) << "once";
}

TEST(RemoteJobs, ThoseOfOneOrderAreDoneOneAfterTheOther) {
  RemoteJobs jobs;
  std::atomic<int> running{0};
  std::vector<int> order;  // no lock: that is what is tested
  std::atomic<int> done{0};
  jobs.OnDone([&](uint64_t) { done.fetch_add(1); });
  for (int i = 0; i < 200; ++i) {
    jobs.Start([&, i] {
      EXPECT_EQ(running.fetch_add(1), 0);
      order.push_back(i);
      if (i % 50 == 0) absl::SleepFor(absl::Milliseconds(5));
      running.fetch_sub(1);
      return Text("");
    }, "name");
  }
  while (done.load() < 200) absl::SleepFor(absl::Milliseconds(1));
  for (int i = 0; i < 200; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(RemoteJobs, OneThatWaitsHoldsUpNoOtherOrder) {
  RemoteJobs jobs;
  absl::Notification go;
  absl::Notification other;
  jobs.Start([&] { go.WaitForNotification(); return Text(""); }, "a");
  jobs.Start([&] { return Text(""); }, "a");
  jobs.Start([&] { other.Notify(); return Text(""); }, "b");
  EXPECT_TRUE(other.WaitForNotificationWithTimeout(absl::Seconds(10)));
  go.Notify();
}

TEST(RemoteJobs, AfterStopNothingIsDone) {
  RemoteJobs jobs;
  jobs.Stop();
  const uint64_t key = jobs.Start([]() -> RemoteJobs::Result { ADD_FAILURE(); return {}; });
  EXPECT_TRUE(absl::IsUnavailable(jobs.Take(key)->status));
}

}  // namespace
}  // namespace penstock::server
