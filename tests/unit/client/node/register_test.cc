#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

#include "tests/unit/client/node/node_process.h"

namespace penstock {
namespace {

using testing::NodeProcess;

TEST(Register, DoesNothingWhereNoRdmaIsInUse) {
  NodeProcess node("64MiB");
  const std::unique_ptr<Client> client = node.Connect();
  std::vector<char> memory(1 << 20);
  absl::StatusOr<RegisteredMemory> registered = client->Register(absl::MakeSpan(memory));
  ASSERT_TRUE(registered.ok()) << registered.status();
  EXPECT_EQ(registered->nbytes(), memory.size());
  EXPECT_TRUE(registered->lanes().empty());
  RegisteredMemory moved = *std::move(registered);
  EXPECT_EQ(registered->nbytes(), 0u);
  EXPECT_EQ(moved.nbytes(), memory.size());
  moved.Release();
  moved.Release();
  EXPECT_EQ(moved.nbytes(), 0u);
  std::ifstream maps("/proc/self/maps");
  const std::string text{std::istreambuf_iterator<char>(maps), {}};
  EXPECT_EQ(text.find("/libucp.so"), std::string::npos) << "UCX was loaded for nothing";
}

TEST(Register, NeedsMemory) {
  NodeProcess node("64MiB");
  EXPECT_TRUE(absl::IsInvalidArgument(node.Connect()->Register({}).status()));
}

}  // namespace
}  // namespace penstock
