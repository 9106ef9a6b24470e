#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Df;
using testing::Eventually;
using testing::Floats;
using testing::ForkChild;
using testing::InChild;
using testing::JoinChild;
using testing::NodeProcess;
using testing::Ref;

class Fork : public ::testing::Test {
 protected:
  NodeProcess node_;
  std::unique_ptr<Client> client_ = node_.Connect();
  const std::vector<float> values_ = Floats(20000, 1);

  bool Shows(const TensorView& view) const {
    const auto shown = view.As<float>();
    return shown.ok() && std::equal(shown->begin(), shown->end(), values_.begin(), values_.end());
  }
};

// A pipe on which one process lets another go on.
class Gate {
 public:
  Gate() { EXPECT_EQ(pipe(ends_), 0); }
  ~Gate() {
    close(ends_[0]);
    close(ends_[1]);
  }
  void Open() { EXPECT_EQ(write(ends_[1], "x", 1), 1); }
  void Pass() {
    char c;
    EXPECT_EQ(read(ends_[0], &c, 1), 1);
  }

 private:
  int ends_[2];
};

TEST_F(Fork, ChildWithoutViewsGetsASessionOfItsOwn) {
  ASSERT_TRUE(client_->Put("x", Ref(values_)).ok());
  const uint64_t parent_session = client_->session_id();
  EXPECT_TRUE(InChild([&] {
    const auto view = client_->Get("x");
    if (!view.ok() || !Shows(*view)) return 1;
    if (!client_->Put("y", Ref(values_)).ok()) return 2;
    return client_->session_id() != parent_session ? 0 : 3;
  }));
  EXPECT_EQ(client_->session_id(), parent_session);
  EXPECT_TRUE(Shows(*client_->Get("y")));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).sessions() == 1; }));
}

TEST_F(Fork, ViewsStayValidInTheChildWhenTheParentLetsGo) {
  ASSERT_TRUE(client_->Put("x", Ref(values_)).ok());
  TensorView view = *client_->Get("x");
  Gate released;
  const pid_t child = ForkChild([&] {
    released.Pass();
    if (!Shows(view)) return 1;
    const auto clone = view.Clone();
    if (!clone.ok() || !Shows(*clone)) return 2;
    if (!client_->Get("y").ok()) return 3;
    if (!client_->Put("z", Ref(values_)).ok()) return 4;  // opens the ring of the child's session
    view.Release();
    return 0;
  });
  view.Release();
  ASSERT_TRUE(client_->Put("y", Ref(Floats(10, 0))).ok());
  ASSERT_TRUE(client_->Delete("x").value());
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(client_->Put("w", Ref(Floats(20000, 7))).ok());
  EXPECT_EQ(Df(*client_).retired(), 1);  // the child's pin
  released.Open();
  EXPECT_TRUE(JoinChild(child));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).retired() == 0; }));
  EXPECT_EQ(Df(*client_).pins(), 0);
  EXPECT_EQ(client_->Get("z")->nbytes(), 80000u);
}

TEST_F(Fork, ViewsStayValidInTheParentWhenTheChildLetsGo) {
  ASSERT_TRUE(client_->Put("x", Ref(values_)).ok());
  TensorView view = *client_->Get("x");
  EXPECT_TRUE(InChild([&] {
    view.Release();
    return 0;
  }));
  ASSERT_TRUE(client_->Delete("x").value());
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(client_->Put("w", Ref(Floats(20000, 7))).ok());
  EXPECT_TRUE(Shows(view));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).sessions() == 1; }));
}

TEST_F(Fork, GrandchildKeepsTheViewAfterItsParentIsGone) {
  ASSERT_TRUE(client_->Put("x", Ref(values_)).ok());
  TensorView view = *client_->Get("x");
  Gate ended;
  Gate shown;
  EXPECT_TRUE(InChild([&] {
    const pid_t grandchild = ForkChild([&] {
      ended.Pass();
      if (Shows(view) && client_->Exists("w").value()) shown.Open();
      return 0;
    });
    return grandchild > 0 ? 0 : 1;
  }));
  view.Release();
  ASSERT_TRUE(client_->Delete("x").value());
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(client_->Put("w", Ref(Floats(20000, 7))).ok());
  ended.Open();
  shown.Pass();
  EXPECT_TRUE(Eventually([&] { return Df(*client_).sessions() == 1; }));
  EXPECT_EQ(Df(*client_).retired(), 0);
}

TEST_F(Fork, DraftsStayTheParents) {
  auto draft = client_->Create("d", DType::kU8, Shape{1 << 20});
  ASSERT_TRUE(draft.ok());
  EXPECT_TRUE(InChild([&] {
    return absl::IsFailedPrecondition(std::move(*draft).Publish().status()) ? 0 : 1;
  }));
  EXPECT_TRUE(std::move(*draft).Publish().ok());
  EXPECT_TRUE(client_->Exists("d").value());
}

TEST_F(Fork, ManyChildrenUseTheStoreAtOnce) {
  ASSERT_TRUE(client_->Put("x", Ref(values_)).ok());
  const TensorView view = *client_->Get("x");
  std::vector<pid_t> children;
  for (int c = 0; c < 6; ++c) {
    children.push_back(ForkChild([&, c] {
      for (int i = 0; i < 50; ++i) {
        const std::string name = "child/" + std::to_string(c);
        if (!client_->Put(name, Ref(values_)).ok()) return 1;
        const auto mine = client_->Get(name);
        if (!mine.ok() || !Shows(*mine) || !Shows(view)) return 2;
      }
      return 0;
    }));
  }
  for (const pid_t child : children) EXPECT_TRUE(JoinChild(child));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).sessions() == 1; }));
}

TEST_F(Fork, KilledChildLeavesNothingBehind) {
  ASSERT_TRUE(client_->Put("x", Ref(values_)).ok());
  TensorView view = *client_->Get("x");
  Gate running;
  const pid_t child = ForkChild([&] {
    std::vector<TensorView> views;
    for (int i = 0; i < 100; ++i) views.push_back(*client_->Get("x"));
    const auto draft = client_->Create("d", DType::kU8, Shape{4 << 20});
    running.Open();
    pause();
    return 0;
  });
  running.Pass();
  EXPECT_EQ(Df(*client_).pins(), 102);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return Df(*client_).pins() == 1; }));
  EXPECT_TRUE(Eventually([&] { return Df(*client_).drafts() == 0; }));
}

}  // namespace
}  // namespace penstock
