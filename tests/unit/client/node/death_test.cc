#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <thread>

#include "absl/time/clock.h"
#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Df;
using testing::Eventually;
using testing::Floats;
using testing::NodeInfo;
using testing::NodeProcess;
using testing::Ref;

bool Shows(const TensorView& view, const std::vector<float>& values) {
  const auto shown = view.As<float>();
  return shown.ok() && std::equal(shown->begin(), shown->end(), values.begin(), values.end());
}

TEST(NodeDeath, KilledNodeIsNotNoticed) {
  NodeProcess node;
  const auto client = node.Connect();
  const std::vector<float> values = Floats(20000, 1);
  ASSERT_TRUE(client->Put("x", Ref(values)).ok());
  const TensorView view = *client->Get("x");
  auto draft = client->Create("d", DType::kF32, Shape{500000});
  ASSERT_TRUE(draft.ok());
  for (int round = 0; round < 3; ++round) {
    kill(static_cast<pid_t>(NodeInfo(*client).pid()), SIGKILL);
    EXPECT_TRUE(Shows(view, values));
    const auto put = client->Put("y", Ref(values));
    ASSERT_TRUE(put.ok()) << put.status();
    EXPECT_TRUE(Shows(*client->Get("x"), values));
    EXPECT_TRUE(Shows(*client->Get("y"), values));
  }
  std::fill_n(static_cast<float*>(draft->data()), 500000, 2.f);
  ASSERT_TRUE(std::move(*draft).Publish().ok());
  EXPECT_EQ((*client->Get("d")->As<float>())[499999], 2.f);
  EXPECT_EQ(Df(*client).pins(), 1);
}

TEST(NodeDeath, LoadGoesOnOverSeveralDeaths) {
  NodeProcess node;
  const auto client = node.Connect();
  const auto killer = node.Connect();
  std::atomic<bool> stop{false};
  std::atomic<int> rounds{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        const std::string name = "load/" + std::to_string(t) + "/" + std::to_string(i % 5);
        const auto values = Floats(i % 20 == 0 ? 300000 : 700, static_cast<float>(i));
        const auto put = client->Put(name, Ref(values));
        ASSERT_TRUE(put.ok()) << put.status();
        const auto view = client->Get(name);
        ASSERT_TRUE(view.ok()) << view.status();
        ASSERT_TRUE(Shows(*view, values));
        ++rounds;
      }
    });
  }
  for (int death = 0; death < 4; ++death) {
    const int before = rounds;
    EXPECT_TRUE(Eventually([&] { return rounds > before + 20; }));
    kill(static_cast<pid_t>(NodeInfo(*killer).pid()), SIGKILL);
  }
  const int before = rounds;
  EXPECT_TRUE(Eventually([&] { return rounds > before + 20; }));
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Df(*client).drafts(), 0);
}

TEST(NodeDeath, WaiterSurvivesIt) {
  NodeProcess node;
  const auto client = node.Connect();
  const auto other = node.Connect();
  absl::StatusOr<TensorInfo> waited = absl::UnknownError("not yet");
  std::thread waiter([&] { waited = client->Wait("later", 0, absl::Seconds(20)); });
  for (int i = 0; i < 2; ++i) kill(static_cast<pid_t>(NodeInfo(*other).pid()), SIGKILL);
  ASSERT_TRUE(other->Put("later", Ref(Floats(10, 0))).ok());
  waiter.join();
  EXPECT_TRUE(waited.ok()) << waited.status();
}

TEST(StoreDeath, ViewsStayAndCallsSaySo) {
  NodeProcess node;
  const auto client = node.Connect();
  const std::vector<float> values = Floats(20000, 1);
  ASSERT_TRUE(client->Put("x", Ref(values)).ok());
  const TensorView view = *client->Get("x");
  node.Stop(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return absl::IsUnavailable(client->Get("x").status()); }));
  EXPECT_TRUE(absl::IsUnavailable(client->Put("x", Ref(values)).status()));
  EXPECT_TRUE(Shows(view, values));
  EXPECT_TRUE(Shows(*view.Clone(), values));
}

TEST(StoreDeath, NobodyThereIsUnavailable) {
  const auto client = Client::Connect({.address = "/tmp/penstock-nobody-is-here"});
  EXPECT_TRUE(absl::IsUnavailable(client.status())) << client.status();
  EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect({.address = "nonsense"}).status()));
}

}  // namespace
}  // namespace penstock
