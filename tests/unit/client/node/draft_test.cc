#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Df;
using testing::Eventually;
using testing::Floats;
using testing::NodeProcess;
using testing::Ref;

class Drafts : public ::testing::Test {
 protected:
  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
};

TEST_F(Drafts, AreInvisibleUntilPublished) {
  for (const int64_t count : {int64_t{0}, int64_t{3}, int64_t{9000}, int64_t{2000000}}) {
    auto draft = client_->Create("d", DType::kF32, Shape{count});
    ASSERT_TRUE(draft.ok()) << count << ": " << draft.status();
    ASSERT_NE(draft->data(), nullptr);
    const std::vector<float> values = Floats(static_cast<size_t>(count), 2);
    if (count > 0) memcpy(draft->data(), values.data(), 4 * values.size());
    EXPECT_FALSE(client_->Exists("d").value());
    const auto info = std::move(*draft).Publish();
    ASSERT_TRUE(info.ok()) << info.status();
    const TensorView view = *client_->Get("d");
    EXPECT_TRUE(count == 0 || memcmp(view.data(), values.data(), 4 * values.size()) == 0);
    EXPECT_EQ(view.version(), info->version);
    ASSERT_TRUE(client_->Delete("d").value());
  }
  EXPECT_EQ(Df(*client_).drafts(), 0);
}

TEST_F(Drafts, AbortGivesTheSpaceBack) {
  for (int i = 0; i < 20; ++i) {  // 20 x 32 MiB would not fit
    auto draft = client_->Create("d", DType::kU8, Shape{32 << 20});
    ASSERT_TRUE(draft.ok()) << i << ": " << draft.status();
    memset(draft->data(), i, 32 << 20);
    draft->Abort();
    draft->Abort();
    EXPECT_FALSE(draft->valid());
  }
  EXPECT_EQ(Df(*client_).draft_bytes(), 0);
}

TEST_F(Drafts, LateWriteFaultsAfterPublish) {
  auto draft = client_->Create("late", DType::kU8, Shape{1 << 20});
  ASSERT_TRUE(draft.ok());
  auto* data = static_cast<volatile char*>(draft->data());
  data[0] = 1;
  ASSERT_TRUE(std::move(*draft).Publish().ok());
  EXPECT_EXIT(
      {
        signal(SIGSEGV, SIG_DFL);
        data[0] = 2;
        exit(0);
      },
      ::testing::KilledBySignal(SIGSEGV), "");
  // The place is writable again for the next draft that gets it.
  ASSERT_TRUE(client_->Delete("late").value());
  for (int i = 0; i < 4; ++i) {
    auto next = client_->Create("next", DType::kU8, Shape{1 << 20});
    ASSERT_TRUE(next.ok());
    memset(next->data(), 3, 1 << 20);
    ASSERT_TRUE(std::move(*next).Publish().ok());
  }
}

TEST_F(Drafts, ConditionIsCheckedAgainAtPublish) {
  auto draft = client_->Create("c", DType::kU8, Shape{8}, {.if_absent = true});
  ASSERT_TRUE(draft.ok());
  const std::vector<float> value = {1};
  ASSERT_TRUE(client_->Put("c", Ref(value)).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(std::move(*draft).Publish().status()));
  EXPECT_EQ(Df(*client_).drafts(), 0);
  EXPECT_TRUE(absl::IsAlreadyExists(
      client_->Create("c", DType::kU8, Shape{8}, {.if_absent = true}).status()));
}

TEST_F(Drafts, EndWithTheirSession) {
  auto other = node_.Connect();
  Draft draft = *other->Create("gone", DType::kU8, Shape{4 << 20});
  EXPECT_EQ(Df(*client_).drafts(), 1);
  other.reset();
  EXPECT_EQ(Df(*client_).drafts(), 1);  // the draft keeps the session
  draft.Abort();
  EXPECT_TRUE(Eventually([&] { return Df(*client_).drafts() == 0; }));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).sessions() == 1; }));
}

}  // namespace
}  // namespace penstock
