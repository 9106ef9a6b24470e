// PutShard against a real node, from C++.
#include <gtest/gtest.h>
#include <penstock/client.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::NodeProcess;

class PutShardTest : public ::testing::Test {
 protected:
  static absl::StatusOr<std::optional<TensorInfo>> PutRows(Client& client, int64_t first, const std::vector<float>& values, const PutOptions& options = {}) {
    const auto rows = static_cast<int64_t>(values.size()) / 2;
    const ConstTensorRef local{.data = values.data(), .dtype = DType::kF32, .shape = Shape({rows, 2}), .strides = {}};
    return client.PutShard("w", local, {.whole = Shape({4, 2}), .offset = {first, 0}}, options);
  }
  size_t Internal() { return client_->List(".penstock/")->items.size(); }

  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
};

TEST_F(PutShardTest, TheLastOnePublishesAllAsOneTensor) {
  const std::unique_ptr<Client> other = node_.Connect();
  const auto first = PutRows(*client_, 0, {1, 2, 3, 4});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(*first);
  EXPECT_TRUE(absl::IsNotFound(client_->Get("w").status()));
  const auto last = PutRows(*other, 2, {5, 6, 7, 8});
  ASSERT_TRUE(last.ok()) << last.status();
  ASSERT_TRUE(*last);
  EXPECT_EQ((*last)->version.number, 1u);
  const auto view = client_->Get("w");
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(*view->As<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(Internal(), 0u);
}

TEST_F(PutShardTest, StridedShardsAreGathered) {
  const std::vector<float> columns{0, 1, 2, 3, 10, 11, 12, 13};  // transposed
  const ConstTensorRef left{.data = columns.data(), .dtype = DType::kF32, .shape = Shape({4, 1}), .strides = {4, 16}};
  const ConstTensorRef right{.data = columns.data() + 4, .dtype = DType::kF32, .shape = Shape({4, 1}), .strides = {4, 16}};
  ASSERT_TRUE(client_->PutShard("w", left, {.whole = Shape({4, 2}), .offset = {0, 0}}).ok());
  const auto last = client_->PutShard("w", right, {.whole = Shape({4, 2}), .offset = {0, 1}});
  ASSERT_TRUE(last.ok() && *last) << last.status();
  EXPECT_EQ(*client_->Get("w")->As<float>(), (std::vector<float>{0, 10, 1, 11, 2, 12, 3, 13}));
}

TEST_F(PutShardTest, ConditionsAndReplicasAreRefused) {
  PutOptions absent, version, replicas;
  absent.if_absent = true;
  version.if_version = 0;
  replicas.replicas = 2;
  for (const PutOptions& options : {absent, version, replicas}) {
    EXPECT_TRUE(absl::IsInvalidArgument(PutRows(*client_, 0, {1, 2}, options).status()));
  }
  const ConstTensorRef nowhere{.data = nullptr, .dtype = DType::kF32, .shape = Shape({2, 2}), .strides = {}};
  EXPECT_TRUE(absl::IsInvalidArgument(client_->PutShard("w", nowhere, {.whole = Shape({4, 2}), .offset = {0, 0}}).status()));
  EXPECT_EQ(Internal(), 0u);
}

TEST_F(PutShardTest, AConflictNamesWhatIsMissing) {
  ASSERT_TRUE(PutRows(*client_, 0, {1, 2}).ok());
  const absl::Status again = PutRows(*client_, 0, {1, 2}).status();
  EXPECT_TRUE(absl::IsAborted(again));
  EXPECT_NE(again.message().find("[1:4, 0:2]"), std::string::npos) << again;
  EXPECT_EQ(Internal(), 2u);
}

TEST_F(PutShardTest, RoundsOfManyThreadsArePublishedOnceEach) {
  constexpr uint64_t kRounds = 50;
  std::vector<std::thread> threads;
  std::atomic<uint64_t> published{0};
  for (int64_t row = 0; row < 4; ++row) {
    threads.emplace_back([&, row] {
      const std::unique_ptr<Client> client = node_.Connect();
      for (uint64_t round = 1; round <= kRounds; ++round) {
        PutOptions options;
        options.version = round;
        const auto info = PutRows(*client, row, {static_cast<float>(round), static_cast<float>(row)}, options);
        ASSERT_TRUE(info.ok()) << info.status();
        published += info->has_value();
      }
      ASSERT_TRUE(client->Wait("w", kRounds, absl::Seconds(30)).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(published, kRounds);
  const float last = kRounds;
  EXPECT_EQ(*client_->Get("w")->As<float>(), (std::vector<float>{last, 0, last, 1, last, 2, last, 3}));
  EXPECT_EQ(Internal(), 0u);
}

}  // namespace
}  // namespace penstock
