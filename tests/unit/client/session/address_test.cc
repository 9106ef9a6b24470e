#include "client/session/address.h"

#include <gtest/gtest.h>
#include <stdlib.h>

namespace penstock::client {
namespace {

TEST(Address, DirectoriesHostsAndLists) {
  const auto list = ResolveAddresses("/run/a,node7:7411,./here");
  ASSERT_TRUE(list.ok());
  ASSERT_EQ(list->size(), 3u);
  EXPECT_TRUE((*list)[0].is_socket_dir);
  EXPECT_FALSE((*list)[1].is_socket_dir);
  EXPECT_EQ((*list)[1].text, "node7:7411");
  EXPECT_TRUE((*list)[2].is_socket_dir);
}

TEST(Address, NonsenseIsRefused) {
  for (const char* bad : {",", "/a,", "host", "host:", ":7411", "host:port", "host:0", "host:70000"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ResolveAddresses(bad).status())) << bad;
  }
}

TEST(Address, EnvironmentThenDefaults) {
  setenv("PENSTOCK_ADDRESS", "/from/environment", 1);
  EXPECT_EQ(ResolveAddresses("")->at(0).text, "/from/environment");
  EXPECT_EQ(ResolveAddresses("/given")->at(0).text, "/given");
  unsetenv("PENSTOCK_ADDRESS");
  setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  const auto defaults = ResolveAddresses("");
  ASSERT_EQ(defaults->size(), 3u);
  EXPECT_EQ((*defaults)[0].text, "/run/penstock");
  EXPECT_EQ((*defaults)[1].text, "/run/user/7/penstock");
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(ResolveAddresses("")->size(), 2u);
}

TEST(Address, TenantIsAFolderBelow) {
  const auto list = ResolveAddresses("/run/a,/run/b/", "team-a");
  ASSERT_TRUE(list.ok());
  EXPECT_EQ((*list)[0].text, "/run/a/team-a");
  EXPECT_EQ((*list)[1].text, "/run/b/team-a");
  EXPECT_EQ((*list)[1].tenant, "team-a");
  EXPECT_TRUE(absl::IsInvalidArgument(ResolveAddresses("/run/a,node7:7411", "team-a").status()));
  for (const char* bad : {"Team", "a/b", "..", "-a", "a-", "a.b"}) EXPECT_TRUE(absl::IsInvalidArgument(ResolveAddresses("/run/a", bad).status())) << bad;
}

TEST(Address, TenantOfTheEnvironmentGoesWithAnAddressThatIsNotGiven) {
  setenv("PENSTOCK_TENANT", "team-b", 1);
  setenv("PENSTOCK_ADDRESS", "/run/a", 1);
  EXPECT_EQ(ResolveAddresses("")->at(0).text, "/run/a/team-b");
  EXPECT_EQ(ResolveAddresses("", "team-c")->at(0).text, "/run/a/team-c");
  EXPECT_EQ(ResolveAddresses("/given")->at(0).text, "/given");
  unsetenv("PENSTOCK_ADDRESS");
  EXPECT_EQ(ResolveAddresses("")->at(0).text, "/run/penstock/team-b");
  unsetenv("PENSTOCK_TENANT");
}

}  // namespace
}  // namespace penstock::client
