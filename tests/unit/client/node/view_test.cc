#include <gtest/gtest.h>
#include <sys/mman.h>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Df;
using testing::Eventually;
using testing::Floats;
using testing::NodeProcess;
using testing::Ref;

class View : public ::testing::Test {
 protected:
  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
};

TEST_F(View, ShowsWhatItShowedWhateverIsPutLater) {
  for (const size_t count : {10u, 20000u, 400000u}) {
    const std::vector<float> first = Floats(count, 1);
    ASSERT_TRUE(client_->Put("x", Ref(first)).ok());
    const TensorView view = *client_->Get("x");
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(client_->Put("x", Ref(Floats(count, 5.f + static_cast<float>(i)))).ok());
    }
    ASSERT_TRUE(client_->Delete("x").value());
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(client_->Put("y", Ref(Floats(count, 9))).ok());
    const auto shown = view.As<float>();
    EXPECT_TRUE(std::equal(shown->begin(), shown->end(), first.begin(), first.end())) << count;
  }
}

TEST_F(View, ItsMemoryCannotBeMadeWritable) {
  ASSERT_TRUE(client_->Put("x", Ref(Floats(20000, 1))).ok());
  const TensorView view = *client_->Get("x");
  void* page = const_cast<std::byte*>(view.data());
  EXPECT_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE), -1);
}

TEST_F(View, OutlivesItsClient) {
  const std::vector<float> values = Floats(1000, 1);
  ASSERT_TRUE(client_->Put("x", Ref(values)).ok());
  const auto other = node_.Connect();
  TensorView view = *client_->Get("x");
  client_.reset();
  ASSERT_TRUE(other->Put("x", Ref(Floats(1000, 2))).ok());
  EXPECT_EQ((*view.As<float>())[999], values[999]);
  EXPECT_EQ(Df(*other).pins(), 1);
  view.Release();
  EXPECT_FALSE(view.valid());
  EXPECT_TRUE(Eventually([&] { return Df(*other).sessions() == 1; }));
  EXPECT_EQ(Df(*other).pins(), 0);
}

TEST_F(View, TenThousandAtOnce) {
  ASSERT_TRUE(client_->Put("x", Ref(Floats(10, 1))).ok());
  std::vector<TensorView> views;
  for (int i = 0; i < 10000; ++i) views.push_back(*client_->Get("x"));
  EXPECT_EQ(Df(*client_).pins(), 10000);
  views.clear();
  EXPECT_EQ(Df(*client_).pins(), 0);
}

TEST_F(View, SlicesAreStridedAndKeepTheirOwnPin) {
  std::vector<float> values(24);
  for (int i = 0; i < 24; ++i) values[i] = static_cast<float>(i);
  ASSERT_TRUE(client_->Put("m", {values.data(), DType::kF32, Shape{4, 6}, {}}).ok());
  TensorView whole = *client_->Get("m");
  TensorView rows = *whole.Slice({{1, 0}, {2, 6}});
  TensorView corner = *rows.Slice({{1, 4}, {1, 2}});
  TensorView column = *whole.Slice({{0, 2}, {4, 1}});
  whole.Release();
  EXPECT_EQ(rows.nbytes(), 48u);
  EXPECT_EQ((*rows.As<float>())[0], 6);
  EXPECT_EQ((*corner.As<float>())[1], 17);
  EXPECT_FALSE(column.contiguous());
  EXPECT_FALSE(column.As<float>().ok());
  EXPECT_EQ(column.strides()[0], 24);
  EXPECT_TRUE(absl::IsInvalidArgument(rows.Slice({{2, 0}, {1, 1}}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(rows.As<int32_t>().status()));
  // One pin for all of them, until the last one goes.
  EXPECT_EQ(Df(*client_).pins(), 1);
  rows.Release();
  corner.Release();
  EXPECT_EQ(Df(*client_).pins(), 1);
  column.Release();
  EXPECT_EQ(Df(*client_).pins(), 0);
}

TEST_F(View, CopyOnWriteStaysPrivateAndIsForgotten) {
  const std::vector<float> values = Floats(20000, 1);
  ASSERT_TRUE(client_->Put("w", Ref(values)).ok());
  ASSERT_TRUE(client_->Put("small", Ref(Floats(10, 1))).ok());
  TensorView view = *client_->Get("w");
  const auto data = view.CopyOnWriteData();
  ASSERT_TRUE(data.ok()) << data.status();
  auto* mine = reinterpret_cast<float*>(*data);
  EXPECT_EQ(mine[19999], values[19999]);
  mine[5] = -1;
  EXPECT_EQ((*view.As<float>())[5], values[5]);
  view.Release();
  TensorView again = *client_->Get("w");
  EXPECT_EQ(reinterpret_cast<float*>(*again.CopyOnWriteData())[5], values[5]);
  EXPECT_TRUE(absl::IsFailedPrecondition(client_->Get("small")->CopyOnWriteData().status()));
}

}  // namespace
}  // namespace penstock
