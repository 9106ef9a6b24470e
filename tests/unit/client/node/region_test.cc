// Regions against a real node: the lock, deaths, lifetimes.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::Df;
using testing::Eventually;
using testing::ForkChild;
using testing::JoinChild;
using testing::NodeInfo;
using testing::NodeProcess;

constexpr absl::Duration kSoon = absl::Seconds(20);
const HoldOptions kAtOnce{.timeout = absl::ZeroDuration()};

// As another thread would ask.
HoldOptions As(uint64_t owner, absl::Duration timeout = absl::ZeroDuration()) { return {.timeout = timeout, .owner = owner}; }

uint64_t* Counters(const Region& region) { return reinterpret_cast<uint64_t*>(region.data()); }

// A child that holds the region until it is killed.
pid_t HoldInChild(const NodeProcess& node, bool write) {
  int ready[2];
  EXPECT_EQ(pipe(ready), 0);
  const pid_t child = ForkChild([&] {
    auto client = node.Connect();
    auto region = client->OpenRegion("x");
    auto hold = write ? region->Write() : region->Read();
    if (!hold.ok() || ::write(ready[1], "x", 1) != 1) return 1;
    pause();
    return 0;
  });
  char byte;
  EXPECT_EQ(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  close(ready[1]);
  return child;
}
void Kill(pid_t child) {
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
}

TEST(Region, ReadersShareAndWritersAreAlone) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_TRUE(region->created());
  EXPECT_EQ(region->state().ToString(), "idle");
  {
    auto one = region->Read(As(1));
    auto two = region->Read(As(2));
    ASSERT_TRUE(one.ok() && two.ok());
    EXPECT_EQ(region->state().ToString(), "reading by 2");
    EXPECT_EQ(region->state().owners, std::vector<uint64_t>(2, client->session_id()));
    EXPECT_TRUE(absl::IsDeadlineExceeded(region->Write(As(3)).status()));
    ASSERT_TRUE(one->Release().ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(one->Release()));
    EXPECT_TRUE(absl::IsDeadlineExceeded(region->Write(As(3)).status()));
  }
  auto writer = region->Write(As(1));
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(region->state().ToString(), "writing");
  EXPECT_TRUE(absl::IsDeadlineExceeded(region->Read(As(2)).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(region->Write(As(2)).status()));
  EXPECT_TRUE(writer->Release().ok());
  EXPECT_TRUE(region->Read(As(2)).ok());
  EXPECT_EQ(region->state().waiting, 0u);
}

TEST(Region, DeadlocksAreErrors) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  auto again = client->OpenRegion("x");
  {
    auto read = region->Read();
    EXPECT_TRUE(absl::IsFailedPrecondition(region->Write().status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(again->Write().status()));
    EXPECT_TRUE(region->Read().ok()) << "reading twice is no deadlock";
  }
  auto write = region->Write();
  EXPECT_TRUE(absl::IsFailedPrecondition(region->Read().status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(again->Write().status()));
  std::thread([&] { EXPECT_TRUE(absl::IsDeadlineExceeded(region->Write(kAtOnce).status())) << "another thread waits"; }).join();
}

TEST(Region, ReaderReadsTwiceThoughAWriterWaits) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  std::optional<RegionHold> read = *region->Read();
  std::thread writer([&] { EXPECT_TRUE(region->Write({.timeout = kSoon}).ok()); });
  ASSERT_TRUE(Eventually([&] { return region->state().waiting == 1; }));
  EXPECT_TRUE(absl::IsDeadlineExceeded(region->Read(As(77)).status())) << "a waiting writer stops new readers";
  EXPECT_TRUE(region->Read({.timeout = kSoon}).ok());
  read.reset();
  writer.join();
}

TEST(Region, WritersThatGaveUpStopNobody) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  auto read = region->Read(As(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(region->Write(As(2, absl::Milliseconds(20))).status()));
  EXPECT_TRUE(region->Read(As(3)).ok());
  bool asked = false;
  EXPECT_TRUE(absl::IsCancelled(region->Write({.owner = 2, .cancelled = [&] { return asked = true; }}).status()));
  EXPECT_TRUE(asked);
  EXPECT_TRUE(region->Read(As(3)).ok());
}

// Each writer adds to two counters; each reader sees them equal. In processes and threads, until all have had many turns.
TEST(Region, NothingIsLostAndNobodyStarves) {
  constexpr int kProcesses = 3, kTurns = 400;
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 4096});
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(ForkChild([&] {
      auto mine = node.Connect();
      auto same = mine->OpenRegion("x");
      if (!same.ok()) return 1;
      std::atomic<int> failed{0};
      const auto work = [&](bool write) {
        for (int turn = 0; turn < kTurns; ++turn) {
          auto hold = write ? same->Write({.timeout = kSoon}) : same->Read({.timeout = kSoon});
          if (!hold.ok() || Counters(*same)[0] != Counters(*same)[100]) failed = 2;
          if (write) ++Counters(*same)[0];
          if (write) ++Counters(*same)[100];
        }
      };
      std::thread reader(work, false), second(work, true);
      work(true);
      reader.join();
      second.join();
      return failed.load();
    }));
  }
  for (pid_t child : children) EXPECT_TRUE(JoinChild(child));
  EXPECT_EQ(Counters(*region)[0], uint64_t{kProcesses} * kTurns * 2);
  EXPECT_EQ(region->state().ToString(), "idle");
}

TEST(Region, DeadReaderLetsGo) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  const pid_t child = HoldInChild(node, /*write=*/false);
  EXPECT_EQ(region->state().ToString(), "reading by 1");
  std::thread killer([&] { Kill(child); });
  auto hold = region->Write({.timeout = kSoon});
  ASSERT_TRUE(hold.ok()) << hold.status();
  EXPECT_FALSE(hold->abandoned());
  killer.join();
}

TEST(Region, DeadWriterIsToldUntilSomebodyHasWritten) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  const pid_t child = HoldInChild(node, /*write=*/true);
  EXPECT_EQ(region->state().ToString(), "writing");
  std::thread killer([&] { Kill(child); });
  const absl::Time start = absl::Now();
  EXPECT_TRUE(region->Read({.timeout = kSoon})->abandoned());
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  killer.join();
  EXPECT_TRUE(region->Read()->abandoned());
  EXPECT_TRUE(region->state().abandoned);
  EXPECT_TRUE(region->Write()->abandoned());
  EXPECT_FALSE(region->Write()->abandoned());
  EXPECT_FALSE(region->Read()->abandoned());
}

TEST(Region, DeathWhileTheNodesProcessIsReplaced) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  Counters(*region)[0] = 7;
  const pid_t child = HoldInChild(node, /*write=*/true);
  const auto pid = static_cast<pid_t>(NodeInfo(*client).pid());
  kill(pid, SIGSTOP);  // it does not see the death
  Kill(child);
  kill(pid, SIGKILL);
  auto hold = region->Write({.timeout = kSoon});
  ASSERT_TRUE(hold.ok()) << hold.status();
  EXPECT_TRUE(hold->abandoned());
  auto again = node.Connect()->OpenRegion("x", {.nbytes = 100});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->created());
  EXPECT_EQ(Counters(*again)[0], 7u);
  EXPECT_EQ(Df(*client).regions(), 1u);
}

TEST(Region, LivesUntilNobodyHasItOpen) {
  NodeProcess node;
  const auto client = node.Connect();
  {
    auto region = client->OpenRegion("x", {.nbytes = 100});
    auto other = node.Connect()->OpenRegion("x");
    Counters(*region)[0] = 5;
    region->Close();
    EXPECT_TRUE(absl::IsFailedPrecondition(region->Read().status()));
    EXPECT_EQ(Counters(*other)[0], 5u);
    EXPECT_TRUE(absl::IsInvalidArgument(client->OpenRegion("x", {.nbytes = 101}).status()));
    EXPECT_TRUE(absl::IsAlreadyExists(client->OpenRegion("x", {.nbytes = 100, .exclusive = true}).status()));
  }
  EXPECT_TRUE(Eventually([&] { return Df(*client).regions() == 0 && Df(*client).region_bytes() == 0; }));
  EXPECT_TRUE(absl::IsNotFound(client->OpenRegion("x").status()));
  EXPECT_EQ(Counters(*client->OpenRegion("x", {.nbytes = 200, .exclusive = true}))[0], 0u) << "new memory";
}

TEST(Region, DeleteTakesTheNameAtOnce) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 100});
  auto hold = region->Write();
  Counters(*region)[0] = 5;
  EXPECT_TRUE(*region->Delete());
  EXPECT_FALSE(*region->Delete());
  EXPECT_TRUE(region->deleted());
  EXPECT_TRUE(absl::IsNotFound(client->OpenRegion("x").status()));
  auto next = client->OpenRegion("x", {.nbytes = 100});
  EXPECT_EQ(Counters(*next)[0], 0u);
  EXPECT_EQ(Counters(*region)[0], 5u);
  EXPECT_TRUE(hold->Release().ok());
  EXPECT_EQ(Df(*client).regions(), 2u);
}

TEST(Region, ForkedChildHasHoldsOfItsOwn) {
  NodeProcess node;
  const auto client = node.Connect();
  auto region = client->OpenRegion("x", {.nbytes = 4096});
  auto hold = region->Write();
  Counters(*region)[0] = 5;
  int go[2], tried[2];
  ASSERT_EQ(pipe(go), 0);
  ASSERT_EQ(pipe(tried), 0);
  const pid_t child = ForkChild([&] {
    if (!absl::IsFailedPrecondition(hold->Release())) return 1;
    if (!absl::IsDeadlineExceeded(region->Read(kAtOnce).status())) return 2;
    char byte;
    if (write(tried[1], "x", 1) != 1 || read(go[0], &byte, 1) != 1) return 3;
    auto mine = region->Write({.timeout = kSoon});
    if (!mine.ok()) return 4;
    return ++Counters(*region)[0] == 6 ? 0 : 5;
  });
  char byte;
  ASSERT_EQ(read(tried[0], &byte, 1), 1);
  EXPECT_TRUE(hold->Release().ok());
  ASSERT_EQ(write(go[1], "x", 1), 1);
  EXPECT_TRUE(JoinChild(child));
  EXPECT_EQ(Counters(*region)[0], 6u);
  EXPECT_FALSE(region->Read({.timeout = kSoon})->abandoned()) << "it ended, but after its turn";
}

}  // namespace
}  // namespace penstock
