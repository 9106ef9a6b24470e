#include "server/penstockd/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <string>

#include "transport/memory_limit.h"

namespace penstock::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class ConfigTest : public ::testing::Test {
 protected:
  void TearDown() override { std::remove(flagfile_.c_str()); }

  absl::StatusOr<LoadedConfig> Load(const std::vector<std::string>& arguments) {
    return LoadConfig(
        arguments,
        [this](const char* name) -> const char* {
          const auto it = environment_.find(name);
          return it == environment_.end() ? nullptr : it->second.c_str();
        },
        "/opt/x/bin/penstockd");
  }

  NodeConfig Good(const std::vector<std::string>& arguments) {
    auto loaded = Load(arguments);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() ? loaded->config : NodeConfig();
  }

  std::string Error(const std::vector<std::string>& arguments) {
    const auto loaded = Load(arguments);
    EXPECT_FALSE(loaded.ok()) << arguments[0] << " should have been refused";
    return std::string(loaded.status().message());
  }

  std::string WriteFlagFile(const std::string& text) {
    std::ofstream(flagfile_) << text;
    return "--flagfile=" + flagfile_;
  }

  std::map<std::string, std::string> environment_;
  std::string flagfile_ = "/tmp/penstock-flags-" + std::to_string(getpid());
};

TEST_F(ConfigTest, DefaultsAreWhatTheDocumentationSays) {
  const NodeConfig config = Good({});
  EXPECT_EQ(config.socket_mode, 0700u);
  EXPECT_EQ(config.grpc_port, 7411);
  EXPECT_EQ(config.host, "127.0.0.1");
  EXPECT_EQ(config.data_port, 7412);
  EXPECT_EQ(config.http_port, kNoTcp);
  EXPECT_EQ(config.http_net, "127.0.0.1");
  EXPECT_EQ(config.data_net, "127.0.0.1");
  EXPECT_EQ(config.huge_pages, HugePages::kAuto);
  EXPECT_EQ(config.rdma, Rdma::kAuto);
  EXPECT_EQ(config.adopt, Adopt::kAuto);
  EXPECT_EQ(config.ready_fd, -1);
  EXPECT_FALSE(config.exit_with_parent);
  const auto limit = ReadMemoryLimit();
  ASSERT_TRUE(limit.ok());
  EXPECT_GE(config.memory_bytes, 64 * kMiB);
  EXPECT_LE(config.memory_bytes, limit->total);
}

TEST_F(ConfigTest, RepairHasABandwidthOrNone) {
  EXPECT_EQ(Good({}).repair_bandwidth, 200 * kMiB);
  EXPECT_EQ(Good({"--repair_bandwidth=1.5MiB"}).repair_bandwidth, 3 * kMiB / 2);
  EXPECT_EQ(Good({"--repair_bandwidth=unlimited"}).repair_bandwidth, 0u);
  EXPECT_EQ(Good({"--repair_bandwidth=0"}).repair_bandwidth, 0u);
  EXPECT_EQ(Good({}).rebalance, Rebalancing::kAuto);
  EXPECT_EQ(Good({"--rebalance=off"}).rebalance, Rebalancing::kOff);
}

TEST_F(ConfigTest, EveryFlagIsRead) {
  const NodeConfig config =
      Good({"--socket_dir=/tmp/s", "--socket_mode=0770", "--memory=1.5GiB", "--grpc_port=0",
            "--host=::1", "--data_port=8", "--data_net=::2", "--http_port=9", "--http_net=::3", "--peers=a:1,[::3]:2", "--rdma=off", "--new_names=peers",
            "--require_transport=rdma", "--tls_cert=c", "--tls_key=k", "--tls_ca=a", "--huge_pages=thp", "--adopt=always", "--max_sessions=7",
            "--log_level=debug", "--exit_with_parent", "--ready_fd=5", "--node_library=/l.so"});
  EXPECT_EQ(config.socket_dir, "/tmp/s");
  EXPECT_EQ(config.FdSocketPath(), "/tmp/s/fd.sock");
  EXPECT_EQ(config.GrpcSocketPath(), "/tmp/s/grpc.sock");
  EXPECT_EQ(config.socket_mode, 0770u);
  EXPECT_EQ(config.memory_bytes, 1536 * kMiB);
  EXPECT_EQ(config.grpc_port, 0);
  EXPECT_EQ(config.host, "::1");
  EXPECT_EQ(config.data_port, 8);
  EXPECT_EQ(config.data_net, "::2");
  EXPECT_EQ(config.http_port, 9);
  EXPECT_EQ(config.http_net, "::3");
  EXPECT_EQ(config.peers, (std::vector<std::string>{"a:1", "[::3]:2"}));
  EXPECT_EQ(config.huge_pages, HugePages::kThp);
  EXPECT_EQ(config.rdma, Rdma::kOff);
  EXPECT_EQ(config.new_names, NewNames::kPeers);
  EXPECT_EQ(config.require_transport, RequireTransport::kRdma);
  EXPECT_EQ(config.tls.cert + config.tls.key + config.tls.ca, "cka");
  EXPECT_EQ(config.adopt, Adopt::kAlways);
  EXPECT_EQ(config.max_sessions, 7u);
  EXPECT_EQ(config.log_level, LogLevel::kDebug);
  EXPECT_TRUE(config.exit_with_parent);
  EXPECT_EQ(config.ready_fd, 5);
  EXPECT_EQ(config.node_library, "/l.so");
}

TEST_F(ConfigTest, TlsTakesAllItsFilesOrNone) {
  EXPECT_FALSE(Good({"--tls_cert=", "--tls_key=", "--tls_ca="}).tls.on());
  EXPECT_THAT(Error({"--tls_cert=c", "--tls_key=k"}), HasSubstr("--tls_ca is missing"));
  EXPECT_THAT(Error({"--tls_ca=a"}), HasSubstr("--tls_cert is missing"));
}

TEST_F(ConfigTest, RdmaIsInClearAndSoNotBesideTlsUnlessItIsAskedFor) {
  EXPECT_TRUE(Good({}).MayUseRdma());
  EXPECT_FALSE(Good({"--rdma=off"}).MayUseRdma());
  EXPECT_FALSE(Good({"--tls_cert=c", "--tls_key=k", "--tls_ca=a"}).MayUseRdma());
  EXPECT_TRUE(Good({"--tls_cert=c", "--tls_key=k", "--tls_ca=a", "--rdma=on"}).MayUseRdma());
}

TEST_F(ConfigTest, NewNamesAtPeersNeedsPeers) {
  EXPECT_THAT(Error({"--new_names=peers"}), HasSubstr("without --peers"));
  EXPECT_EQ(Good({"--new_names=peers", "--peers=a:1"}).new_names, NewNames::kPeers);
}

TEST_F(ConfigTest, ASpillLimitNeedsADirectory) {
  EXPECT_EQ(Good({}).spill_dir, "");
  EXPECT_EQ(Good({"--spill_dir=/a/../b", "--spill_limit=10GiB"}).spill_dir, "/b");
  EXPECT_EQ(Good({"--spill_dir=x", "--spill_limit=50%"}).spill_dir.substr(0, 1), "/");
  EXPECT_THAT(Error({"--spill_limit=10GiB"}), HasSubstr("needs --spill_dir"));
  for (const char* wrong : {"0", "0%", "101%", "much"}) EXPECT_THAT(Error({"--spill_dir=/b", std::string("--spill_limit=") + wrong}), HasSubstr("--spill_limit cannot be"));
}

TEST_F(ConfigTest, EtcdTellsTheOthersWhereThisNodeIs) {
  EXPECT_EQ(Good({"--etcd=a:1,b:2", "--host=10.0.0.1"}).advertise, "10.0.0.1");
  EXPECT_EQ(Good({"--etcd=a:1", "--host=0.0.0.0", "--advertise=me"}).advertise, "me");
  EXPECT_EQ(Good({"--etcd=a:1", "--new_names=peers"}).new_names, NewNames::kPeers);
  EXPECT_THAT(Error({"--etcd=a:1", "--host=::"}), HasSubstr("--advertise is missing"));
  EXPECT_THAT(Error({"--etcd=a:1", "--grpc_port=none"}), HasSubstr("--grpc_port cannot be 'none'"));
  EXPECT_THAT(Error({"--etcd=http://a:1"}), HasSubstr("host:port"));
  EXPECT_THAT(Error({"--etcd_ca=c", "--etcd_key=k"}), HasSubstr("--etcd_cert is missing"));
  EXPECT_THAT(Error({"--node_id=00000000000000000000000000000000"}), HasSubstr("--node_id cannot be"));
}

TEST_F(ConfigTest, DataPortFollowsTheGrpcPort) {
  EXPECT_EQ(Good({"--grpc_port=9"}).data_port, 7412);
  EXPECT_EQ(Good({"--grpc_port=0"}).data_port, 0);
  EXPECT_EQ(Good({"--grpc_port=none"}).data_port, kNoTcp);
  EXPECT_EQ(Good({"--grpc_port=none", "--data_port=0"}).data_port, 0);
  EXPECT_EQ(Good({"--grpc_port=0", "--data_port=none"}).data_port, kNoTcp);
}

TEST_F(ConfigTest, FormsOfOneFlag) {
  EXPECT_EQ(Good({"--grpc_port", "9"}).grpc_port, 9);
  EXPECT_EQ(Good({"--grpc-port=9"}).grpc_port, 9);
  EXPECT_EQ(Good({"--grpc_port=1", "--grpc_port=2"}).grpc_port, 2) << "the last one counts";
  EXPECT_EQ(Good({"--grpc_port=none"}).grpc_port, kNoTcp);
  EXPECT_EQ(Good({"--grpc_port=-1"}).grpc_port, kNoTcp);
  EXPECT_TRUE(Good({"--exit_with_parent=true"}).exit_with_parent);
  EXPECT_FALSE(Good({"--exit_with_parent", "--noexit_with_parent"}).exit_with_parent);
}

TEST_F(ConfigTest, CommandLineOverEnvironmentOverFlagFile) {
  const std::string flagfile = WriteFlagFile(
      "# a comment\n\n--grpc_port=1\nhost=file\r\n  max_sessions=3\nexit_with_parent\n");
  environment_ = {{"PENSTOCK_GRPC_PORT", "2"}, {"PENSTOCK_HOST", "environment"}};
  const NodeConfig config = Good({flagfile, "--grpc_port=3"});
  EXPECT_EQ(config.grpc_port, 3);
  EXPECT_EQ(config.host, "environment");
  EXPECT_EQ(config.max_sessions, 3u);
  EXPECT_TRUE(config.exit_with_parent);
}

TEST_F(ConfigTest, FlagFileMayComeFromTheEnvironment) {
  WriteFlagFile("host=file\n");
  environment_["PENSTOCK_FLAGFILE"] = flagfile_;
  EXPECT_EQ(Good({}).host, "file");
}

TEST_F(ConfigTest, PercentIsOfTheMemoryLimitAndNeverBelowTheMinimum) {
  const auto limit = ReadMemoryLimit();
  ASSERT_TRUE(limit.ok());
  const uint64_t half = Good({"--memory=50%"}).memory_bytes;
  EXPECT_NEAR(static_cast<double>(half), static_cast<double>(limit->limit) / 2,
              static_cast<double>(kMiB));
  EXPECT_EQ(Good({"--memory=0.0001%"}).memory_bytes, kMinMemoryBytes);
}

TEST_F(ConfigTest, WrongValuesNameSourceFlagValueAndWhatIsAllowed) {
  const std::pair<const char*, const char*> wrong[] = {
      {"memory", "63MiB"},    {"memory", "0"},         {"memory", "lots"},
      {"memory", "101%"},     {"memory", "-1GiB"},     {"memory", ""},
      {"grpc_port", "65536"}, {"grpc_port", "-2"},     {"grpc_port", "http"},
      {"grpc_port", "7 "},    {"socket_mode", "0600"}, {"socket_mode", "1777"},
      {"socket_mode", "abc"}, {"huge_pages", "yes"},   {"adopt", "never"},
      {"max_sessions", "0"},  {"log_level", "loud"},   {"exit_with_parent", "1"},
      {"ready_fd", "stdout"}, {"socket_dir", ""},      {"host", ""},
      {"data_port", "65536"}, {"data_net", ""},      {"peers", "a"},
      {"http_port", "65536"}, {"http_net", ""},
      {"new_names", "there"}, {"rdma", "maybe"},
      {"repair_bandwidth", "fast"}, {"repair_bandwidth", "-1"}, {"rebalance", "on"},
      {"peers", "a:0"},       {"peers", "a:1,,b:2"},   {"peers", ":1"},
  };
  for (const auto& [flag, value] : wrong) {
    const std::string text = std::string("--") + flag + "=" + value;
    EXPECT_THAT(Error({text}),
                AllOf(HasSubstr("command line"), HasSubstr(std::string("--") + flag),
                      HasSubstr(std::string("'") + value + "'"), HasSubstr("allowed")));
  }
}

TEST_F(ConfigTest, UnknownFlagsAndWordsAreRefused) {
  EXPECT_THAT(Error({"--sockets=1"}), AllOf(HasSubstr("--sockets"), HasSubstr("--socket_dir")));
  EXPECT_THAT(Error({"serve"}), HasSubstr("'serve'"));
  EXPECT_THAT(Error({"-h"}), HasSubstr("'-h'"));
  EXPECT_THAT(Error({"--"}), HasSubstr("'--'"));
  EXPECT_THAT(Error({"--nomemory"}), HasSubstr("--nomemory"));
  EXPECT_THAT(Error({"--grpc_port"}), HasSubstr("no value"));
  EXPECT_THAT(Error({"--socket_dir=/" + std::string(100, 'x')}), HasSubstr("--socket_dir"));
}

TEST_F(ConfigTest, WrongValueOfAWeakerSourceIsNamedThoughItWouldNotCount) {
  environment_["PENSTOCK_GRPC_PORT"] = "http";
  EXPECT_THAT(Error({"--grpc_port=1"}), HasSubstr("PENSTOCK_GRPC_PORT"));
}

TEST_F(ConfigTest, FlagFileErrorsNameTheLine) {
  EXPECT_THAT(Error({WriteFlagFile("host=x\nnothing=1\n")}),
              AllOf(HasSubstr(flagfile_ + ":2"), HasSubstr("--nothing")));
  EXPECT_THAT(Error({WriteFlagFile("\n\ngrpc_port=x\n")}), HasSubstr(flagfile_ + ":3"));
  EXPECT_THAT(Error({WriteFlagFile("host\n")}), HasSubstr("no value"));
  EXPECT_THAT(Error({WriteFlagFile("flagfile=/other\n")}), HasSubstr("--flagfile"));
  EXPECT_THAT(Error({"--flagfile=/nonexistent/flags"}), HasSubstr("/nonexistent/flags"));
}

TEST_F(ConfigTest, PrintedConfigurationIsAFlagFileThatMeansTheSame) {
  auto printed = Load({"--print_config", "--memory=100MiB", "--socket_mode=0750", "--host=h",
                       "--grpc_port=none", "--huge_pages=off", "--exit_with_parent"});
  ASSERT_TRUE(printed.ok()) << printed.status();
  EXPECT_EQ(printed->action, ConfigAction::kPrintConfig);
  EXPECT_THAT(printed->text, HasSubstr("--memory=100MiB"));
  auto again = Load({WriteFlagFile(printed->text), "--print_config"});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->config.memory_bytes, 100 * kMiB);
  EXPECT_EQ(again->config.socket_mode, 0750u);
  EXPECT_EQ(again->config.host, "h");
  EXPECT_EQ(again->config.grpc_port, kNoTcp);
  EXPECT_EQ(again->config.huge_pages, HugePages::kOff);
  EXPECT_TRUE(again->config.exit_with_parent);
  EXPECT_EQ(again->config.socket_dir, printed->config.socket_dir);
}

TEST_F(ConfigTest, AHostIsLabelledByItsNameUnlessItIsTold) {
  EXPECT_EQ(Load({})->config.host_label, "") << "without etcd nobody asks";
  const auto by_name = Load({"--etcd=h:1", "--print_config"});
  ASSERT_TRUE(by_name.ok()) << by_name.status();
  EXPECT_FALSE(by_name->config.host_label.empty());
  EXPECT_EQ(Load({WriteFlagFile(by_name->text)})->config.host_label, by_name->config.host_label);
  EXPECT_EQ(Load({"--etcd=h:1", "--host_label=rack-3.host_4"})->config.host_label, "rack-3.host_4");
}

TEST_F(ConfigTest, HelpNamesEveryFlagAndVersionTheVersion) {
  auto help = Load({"--help"});
  ASSERT_TRUE(help.ok());
  EXPECT_EQ(help->action, ConfigAction::kHelp);
  for (const char* flag : {"--socket_dir", "--memory", "--ready_fd", "--flagfile", "--version"}) {
    EXPECT_THAT(help->text, HasSubstr(flag));
  }
  EXPECT_EQ(Load({"--version"})->action, ConfigAction::kVersion);
}

}  // namespace
}  // namespace penstock::server
