// Channels against a real node: writers, readers, deaths.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

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

uint64_t PutAll(ChannelWriter& writer, uint32_t value) {
  std::vector<uint32_t> step(writer.nbytes() / 4, value);
  return writer.Put({.data = step.data(), .dtype = DType::kU32, .shape = writer.shape(), .strides = {}}).value();
}
// The value that the whole step has; -1 if there are several.
int64_t OneValue(absl::Span<const std::byte> bytes) {
  uint32_t first = 0;
  std::memcpy(&first, bytes.data(), 4);
  for (size_t i = 0; i < bytes.size(); i += 4) {
    if (std::memcmp(bytes.data() + i, &first, 4) != 0) return -1;
  }
  return first;
}
// That ended a child.
int SignalOf(pid_t pid) {
  int status = 0;
  return waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}
bool NothingLeft(Client& client) {
  const v1::DfResponse df = Df(client);
  return df.channels() == 0 && df.channel_bytes() == 0;
}

TEST(Channel, ReaderGetsEachStepInItsTurn) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("env/0", DType::kU32, {16, 4});
  ASSERT_TRUE(writer.ok()) << writer.status();
  auto reader = client->Subscribe("env/0");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(absl::IsNotFound(reader->Latest().status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(reader->Next(absl::ZeroDuration()).status()));
  for (uint32_t i = 1; i <= 5; ++i) EXPECT_EQ(PutAll(*writer, i), i);
  for (uint32_t i = 1; i <= 5; ++i) {
    const auto step = reader->Next(kSoon);
    ASSERT_TRUE(step.ok()) << step.status();
    EXPECT_EQ(step->seq(), i);
    EXPECT_EQ(step->missed(), 0u);
    EXPECT_EQ(OneValue(step->bytes()), i);
    EXPECT_TRUE(step->Ok());
  }
  EXPECT_EQ(reader->Latest()->seq(), 5u);
}

TEST(Channel, SlowReaderIsToldHowManyItMissed) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8}, {.slots = 4});
  auto reader = client->Subscribe("x");
  for (uint32_t i = 1; i <= 10; ++i) PutAll(*writer, i);
  auto step = reader->Next(kSoon);
  ASSERT_TRUE(step.ok());
  EXPECT_EQ(step->seq(), 8u);  // the oldest that the next write leaves whole
  EXPECT_EQ(step->missed(), 7u);
  EXPECT_EQ(OneValue(step->bytes()), 8);
  EXPECT_EQ(reader->Next(kSoon)->missed(), 0u);
}

TEST(Channel, StepThatWasOverwrittenIsNotOk) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8}, {.slots = 2});
  auto reader = client->Subscribe("x");
  PutAll(*writer, 1);
  const auto step = reader->Latest();
  PutAll(*writer, 2);
  EXPECT_TRUE(step->Ok());
  {
    auto slot = writer->Begin();  // of step 1's place
    EXPECT_FALSE(step->Ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(writer->Begin().status()));
  }
  EXPECT_FALSE(step->Ok());
  EXPECT_EQ(reader->Latest()->seq(), 2u) << "an aborted step is no step";
  EXPECT_EQ(PutAll(*writer, 3), 3u);
}

TEST(Channel, ReaderCannotWriteIt) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {2048});
  auto reader = client->Subscribe("x");
  PutAll(*writer, 1);
  const auto step = reader->Latest();
  void* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(step->data()) & ~uintptr_t{4095});
  EXPECT_NE(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(SignalOf(ForkChild([&] {
              signal(SIGSEGV, SIG_DFL);  // a sanitizer has a handler of its own
              *const_cast<std::byte*>(step->data()) = std::byte{7};
              return 0;
            })),
            SIGSEGV);
}

TEST(Channel, OneWriterAName) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8});
  const auto second = node.Connect()->OpenChannel("x", DType::kF32, {9});
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_NE(second.status().message().find("u32 (8,)"), std::string::npos) << second.status();
  writer->Close();
  EXPECT_TRUE(client->OpenChannel("x", DType::kF32, {9}).ok()) << "a name that was closed is free";
}

TEST(Channel, BadArgumentsSaySo) {
  NodeProcess node;
  const auto client = node.Connect();
  EXPECT_TRUE(absl::IsInvalidArgument(client->OpenChannel("x", DType::kU32, {8}, {.slots = 1}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->OpenChannel("a//b", DType::kU32, {8}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->OpenChannel("x", DType::kInvalid, {8}).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(client->OpenChannel("x", DType::kU8, {1 << 28}).status()));
  EXPECT_TRUE(absl::IsNotFound(client->Subscribe("x").status()));
  auto writer = client->OpenChannel("x", DType::kU32, {8});
  ASSERT_TRUE(writer.ok());
  const Shape other({9});
  EXPECT_TRUE(absl::IsInvalidArgument(client->Subscribe("x", {.shape = &other}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->Subscribe("x", {.dtype = DType::kF32}).status()));
  const float wrong[8] = {};
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Put({.data = wrong, .dtype = DType::kF32, .shape = {8}, .strides = {}}).status()));
  EXPECT_EQ(writer->seq(), 0u);
}

TEST(Channel, EmptyTensorAndStridedPut) {
  NodeProcess node;
  const auto client = node.Connect();
  auto empty = client->OpenChannel("empty", DType::kU32, {0, 3});
  ASSERT_TRUE(empty.ok()) << empty.status();
  auto reader = client->Subscribe("empty");
  ASSERT_TRUE(empty->Put({.data = nullptr, .dtype = DType::kU32, .shape = {0, 3}, .strides = {}}).ok());
  EXPECT_EQ(reader->Next(kSoon)->nbytes(), 0u);
  auto writer = client->OpenChannel("x", DType::kU32, {2, 2});
  const uint32_t columns[] = {1, 3, 2, 4};
  ASSERT_TRUE(writer->Put({.data = columns, .dtype = DType::kU32, .shape = {2, 2}, .strides = {4, 8}}).ok());
  uint32_t out[4] = {};
  ASSERT_TRUE(client->Subscribe("x")->ReadInto(out, sizeof(out)).ok());
  EXPECT_EQ(out[1], 2u);
  EXPECT_EQ(out[2], 3u);
}

TEST(Channel, CloseTellsReadersAfterTheLastStep) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8});
  auto reader = client->Subscribe("x");
  auto second = client->Subscribe("x");
  PutAll(*writer, 1);
  writer->Close();
  writer->Close();
  EXPECT_TRUE(absl::IsFailedPrecondition(writer->Begin().status()));
  EXPECT_EQ(reader->Next(kSoon)->seq(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(reader->Next(kSoon).status()));
  EXPECT_EQ(second->Latest()->seq(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(second->Latest().status()));
  EXPECT_TRUE(absl::IsNotFound(client->Subscribe("x").status()));
}

TEST(Channel, MemoryGoesWithTheLastWhoHasItOpen) {
  NodeProcess node;
  const auto client = node.Connect();
  {
    auto writer = client->OpenChannel("x", DType::kU32, {1000});
    EXPECT_EQ(Df(*client).channels(), 1u);
    EXPECT_GT(Df(*client).channel_bytes(), 8u * 4000);
    auto reader = client->Subscribe("x");
    PutAll(*writer, 1);
    const ChannelStep step = *reader->Latest();
    {
      const auto gone = std::move(*reader);
    }
    writer->Close();
    EXPECT_EQ(OneValue(step.bytes()), 1);
    EXPECT_EQ(Df(*client).channels(), 1u) << "a step keeps the memory";
  }
  EXPECT_TRUE(Eventually([&] { return NothingLeft(*client); }));
}

// Many steps, each of one value, while a reader in another process copies what it can.
TEST(Channel, ReaderInAnotherProcessNeverCopiesATornStep) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {4096}, {.slots = 2});
  const pid_t child = ForkChild([&] {
    auto mine = node.Connect();
    auto reader = mine->Subscribe("x");
    if (!reader.ok()) return 2;
    std::vector<uint32_t> out(4096);
    uint64_t got = 0;
    while (true) {
      const absl::Duration patience = kSoon;
      const auto step = reader->ReadInto(out.data(), 4 * out.size(), &patience);
      if (absl::IsDataLoss(step.status())) continue;
      if (absl::IsUnavailable(step.status())) return got > 0 ? 0 : 3;
      if (!step.ok()) return 4;
      ++got;
      if (OneValue(step->bytes()) != static_cast<int64_t>(step->seq())) return 5;
    }
  });
  const absl::Time end = absl::Now() + absl::Seconds(1);
  for (uint32_t i = 1; absl::Now() < end; ++i) PutAll(*writer, i);
  writer->Close();
  EXPECT_TRUE(JoinChild(child));
}

TEST(Channel, WaitingReaderIsTold) {
  NodeProcess node;
  const auto client = node.Connect();
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = ForkChild([&] {
    auto mine = node.Connect();
    auto writer = mine->OpenChannel("x", DType::kU32, {4096});
    PutAll(*writer, 1);
    auto slot = writer->Begin();
    std::memset(slot->data(), 0xee, 100);  // dies in the middle of step 2
    if (write(ready[1], "x", 1) != 1) return 1;
    pause();
    return 0;
  });
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  auto reader = client->Subscribe("x");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->Next(kSoon)->seq(), 1u);
  std::thread killer([&] { kill(child, SIGKILL); });
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsUnavailable(reader->Next(kSoon).status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
  killer.join();
  EXPECT_TRUE(absl::IsUnavailable(reader->Latest().status()));
  EXPECT_EQ(SignalOf(child), SIGKILL);
  EXPECT_TRUE(Eventually([&] { return client->OpenChannel("x", DType::kU32, {4}).ok(); }));
}

TEST(Channel, SubscriberWaitsForTheChannelToAppear) {
  NodeProcess node;
  const auto client = node.Connect();
  std::thread late([&] {
    EXPECT_TRUE(Eventually([&] { return Df(*client).sessions() == 2; }));
    auto writer = client->OpenChannel("x", DType::kU32, {4});
    PutAll(*writer, 9);
    EXPECT_TRUE(Eventually([&] { return Df(*client).sessions() == 1; }));
  });
  {
    auto other = node.Connect();
    auto reader = other->Subscribe("x", {.timeout = kSoon});
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(OneValue(reader->Next(kSoon)->bytes()), 9);
  }
  late.join();
}

TEST(Channel, SurvivesTheNodesProcess) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8});
  auto reader = client->Subscribe("x");
  for (uint32_t round = 1; round <= 3; ++round) {
    kill(static_cast<pid_t>(NodeInfo(*client).pid()), SIGKILL);
    EXPECT_EQ(PutAll(*writer, round), round);
    EXPECT_EQ(OneValue(reader->Next(kSoon)->bytes()), round);
    auto another = node.Connect()->Subscribe("x");  // the new process knows the name
    ASSERT_TRUE(another.ok()) << another.status();
    EXPECT_EQ(another->Latest()->seq(), round);
    EXPECT_TRUE(absl::IsAlreadyExists(client->OpenChannel("x", DType::kU32, {8}).status()));
    EXPECT_EQ(Df(*client).channels(), 1u);
  }
  writer->Close();
  EXPECT_TRUE(absl::IsUnavailable(reader->Next(kSoon).status()));
  {
    const auto gone = *std::move(reader);
  }
  EXPECT_TRUE(Eventually([&] { return NothingLeft(*client); }));
}

TEST(Channel, ForkedChildReadsOnAndDoesNotWrite) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8});
  auto reader = client->Subscribe("x");
  PutAll(*writer, 1);
  const ChannelStep step = *reader->Next(kSoon);
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = ForkChild([&] {
    if (!absl::IsFailedPrecondition(writer->Begin().status())) return 1;
    writer->Close();  // the parent's goes on
    if (OneValue(step.bytes()) != 1 || !step.Ok()) return 2;
    char byte;
    if (read(go[0], &byte, 1) != 1) return 3;
    const auto next = reader->Next(kSoon);
    return next.ok() && next->seq() == 2 && OneValue(next->bytes()) == 2 ? 0 : 4;
  });
  PutAll(*writer, 2);
  ASSERT_EQ(write(go[1], "x", 1), 1);
  EXPECT_TRUE(JoinChild(child));
  EXPECT_EQ(reader->Next(kSoon)->seq(), 2u);
}

TEST(Channel, EndOfTheStoreEndsIt) {
  NodeProcess node;
  const auto client = node.Connect();
  auto writer = client->OpenChannel("x", DType::kU32, {8});
  auto reader = client->Subscribe("x");
  PutAll(*writer, 1);
  node.Stop(SIGKILL);
  EXPECT_EQ(reader->Next(kSoon)->seq(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(reader->Next(kSoon).status()));
  EXPECT_TRUE(absl::IsUnavailable(writer->Begin().status()));
}

}  // namespace
}  // namespace penstock
