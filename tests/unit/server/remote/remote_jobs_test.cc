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

TEST(RemoteJobs, OneOfManyOrdersWaitsForEachAndIsNotOvertaken) {
  RemoteJobs jobs;
  absl::Notification go, last;
  std::vector<int> order;  // no lock: each has "b"
  jobs.Start([&] { go.WaitForNotification(); return Text(""); }, "a");
  jobs.Run([&] { order.push_back(1); }, {"a", "b"});
  jobs.Run([&] { order.push_back(2); last.Notify(); }, {"b"});
  EXPECT_TRUE(jobs.Pending("b") && !jobs.Pending("c"));
  go.Notify();
  ASSERT_TRUE(last.WaitForNotificationWithTimeout(absl::Seconds(10)));
  jobs.Stop();  // its threads are joined
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(RemoteJobs, OneWorkTellsManyResults) {
  RemoteJobs jobs;
  std::atomic<int> told{0};
  jobs.OnDone([&](uint64_t) { told.fetch_add(1); });
  const uint64_t one = jobs.NewKey(), two = jobs.NewKey();
  jobs.Run([&] { jobs.Finish(two, Text("two")); jobs.Finish(one, Text("one")); });
  while (told.load() < 2) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(jobs.Take(one)->response + jobs.Take(two)->response, "onetwo");
}

TEST(RemoteJobs, AfterStopNothingIsDone) {
  RemoteJobs jobs;
  jobs.Stop();
  const uint64_t key = jobs.Start([]() -> RemoteJobs::Result { ADD_FAILURE(); return {}; });
  EXPECT_TRUE(absl::IsUnavailable(jobs.Take(key)->status));
}

}  // namespace
}  // namespace penstock::server
