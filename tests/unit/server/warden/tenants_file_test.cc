#include "server/penstockd/tenants_file.h"

#include <gmock/gmock.h>

namespace penstock::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kGiB = uint64_t{1} << 30;

std::string Error(const std::string& text) {
  const auto parsed = ParseTenants(text, "f");
  return parsed.ok() ? "it was taken" : std::string(parsed.status().message());
}

TEST(TenantsFile, SectionsInTheOrderOfTheirNames) {
  const auto parsed = ParseTenants("# who\n\n[b]\r\n--memory=1GiB # small\n[ a-1 ]\nuser = alice\ngroup=staff\n  --memory=2GiB\n--max-tensors=5\n--socket_mode=0770", "f");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), 2u);
  EXPECT_EQ((*parsed)[0].name, "a-1");
  EXPECT_EQ((*parsed)[0].user, "alice");
  EXPECT_EQ((*parsed)[0].group, "staff");
  EXPECT_THAT((*parsed)[0].flags, ElementsAre("--memory=2GiB", "--max_tensors=5", "--socket_mode=0770"));
  EXPECT_TRUE((*parsed)[0].has_mode);
  EXPECT_EQ((*parsed)[1].memory, "1GiB");
  EXPECT_FALSE((*parsed)[1].has_mode);
}

TEST(TenantsFile, ErrorsTellTheLine) {
  EXPECT_THAT(Error("\n[a]\n--memory=1GiB\n--memory\n"), HasSubstr("f:4: "));
  EXPECT_THAT(Error("[a]\n--memory=1GiB\n[b]\n"), HasSubstr("f:3: tenant 'b' has no --memory"));
  EXPECT_THAT(Error("[a]\n--flagfile=x\n"), HasSubstr("f:2: "));
  EXPECT_THAT(Error("[]\n"), HasSubstr("f:1: "));
  EXPECT_THAT(Error("[" + std::string(64, 'a') + "]\n"), HasSubstr("f:1: "));
  EXPECT_THAT(Error("[a]\n--etcd=x:1 --memory=5\n"), HasSubstr("f:2: "));
}

TEST(TenantsFile, AllMemoryTogetherMustFit) {
  const auto two = ParseTenants("[a]\n--memory=3GiB\n[b]\n--memory=25%\n", "f");
  ASSERT_TRUE(two.ok());
  EXPECT_TRUE(CheckMemory(*two, {.total = 4 * kGiB, .limit = 4 * kGiB, .usage = 0, .available = 0, .source = "host"}).ok());
  const absl::Status refused = CheckMemory(*two, {.total = 8 * kGiB, .limit = 3 * kGiB, .usage = 0, .available = 3 * kGiB, .source = "/sys/fs/cgroup/x"});
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()), ::testing::AllOf(HasSubstr("a 3GiB, b 768MiB"), HasSubstr("/sys/fs/cgroup/x allows 3GiB")));
}

}  // namespace
}  // namespace penstock::server
