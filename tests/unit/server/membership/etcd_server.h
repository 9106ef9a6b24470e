// Real etcd members of a test's own, that fail as it wants. A test without an etcd on this machine is skipped.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cluster.pb.h"
#include "proto/strcat.h"
#include "server/membership/etcd_client.h"

namespace penstock::server {

// Looks again and again; false: it never came.
inline bool Eventually(const std::function<bool()>& condition, absl::Duration patience = absl::Seconds(20)) {
  const absl::Time end = absl::Now() + patience;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

// A node's servers always wait for something; without a thread that does, gRPC does not notice that a connection is made while calls fail at once.
class Waiting {
 public:
  Waiting() : thread_([this] {
    void* tag = nullptr;
    bool ok = false;
    (void)queue_.Next(&tag, &ok);
  }) {}
  ~Waiting() {
    queue_.Shutdown();
    thread_.join();
  }

 private:
  grpc::CompletionQueue queue_;
  std::thread thread_;
};

class EtcdServer {
 public:
  static bool Installed() {
    const char* path = getenv("PATH");
    std::istringstream folders(path != nullptr ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
      if (access((folder + "/etcd").c_str(), X_OK) == 0) return true;
    }
    return false;
  }

  explicit EtcdServer(int count = 1) {
    std::string pattern = std::filesystem::temp_directory_path() / "penstock-etcd-XXXXXX";
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    for (int i = 0; i < count; ++i) members_.push_back({FreePort(), FreePort(), 0});
    for (int i = 0; i < count; ++i) Start(i);
    AwaitHealthy();
  }
  ~EtcdServer() {
    for (size_t i = 0; i < members_.size(); ++i) Kill(i);
    std::filesystem::remove_all(folder_);
  }

  std::vector<std::string> endpoints() const {
    std::vector<std::string> all;
    for (const Member& member : members_) all.push_back(StrCat("127.0.0.1:", member.client));
    return all;
  }

  void Start(size_t i) {
    std::string cluster;
    for (size_t k = 0; k < members_.size(); ++k) StrAppend(&cluster, k == 0 ? "" : ",", "m", k, "=http://127.0.0.1:", members_[k].peer);
    const std::string client = StrCat("http://127.0.0.1:", members_[i].client), peer = StrCat("http://127.0.0.1:", members_[i].peer);
    Run(i, {"etcd", "--name", StrCat("m", i), "--data-dir", StrCat(folder_, "/m", i), "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, "--heartbeat-interval=100",
            "--election-timeout=1000"});
  }
  void Kill(size_t i) {
    if (members_[i].pid == 0) return;
    kill(members_[i].pid, SIGKILL);
    waitpid(members_[i].pid, nullptr, 0);
    members_[i].pid = 0;
  }
  void Pause(size_t i) { kill(members_[i].pid, SIGSTOP); }
  void Resume(size_t i) { kill(members_[i].pid, SIGCONT); }
  // It comes up with nothing.
  void Wipe(size_t i) {
    Kill(i);
    std::filesystem::remove_all(StrCat(folder_, "/m", i));
    Start(i);
    AwaitHealthy();
  }
  void AwaitHealthy() {
    EtcdClient client(endpoints(), {});
    EXPECT_TRUE(Eventually([&] { return client.List(WithPrefix("/health"), absl::Seconds(1)).ok(); }, absl::Seconds(60))) << "etcd does not come up";
  }

 private:
  struct Member {
    int client = 0, peer = 0;  // ports
    pid_t pid = 0;
  };

  static int FreePort() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
    close(fd);
    return ntohs(address.sin_port);
  }

  void Run(size_t i, std::vector<std::string> words) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const std::string log = StrCat(folder_, "/m", i, ".log");
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
      dup2(out, STDOUT_FILENO);
      dup2(out, STDERR_FILENO);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
    members_[i].pid = pid;
  }

  Waiting waiting_;
  std::string folder_;
  std::vector<Member> members_;
};

// One etcd for all tests of a suite, which each have a cluster of their own name in it.
class EtcdTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (EtcdServer::Installed()) etcd_ = std::make_unique<EtcdServer>();
  }
  static void TearDownTestSuite() { etcd_.reset(); }
  void SetUp() override {
    if (etcd_ == nullptr) GTEST_SKIP() << "needs etcd (deploy/install_deps test)";
    client_ = std::make_unique<EtcdClient>(etcd_->endpoints(), EtcdAccess());
  }

  static std::string Cluster() { return testing::UnitTest::GetInstance()->current_test_info()->name(); }
  static std::string Key(const std::string& name) { return StrCat("/penstock/", Cluster(), "/", name); }

  // The key's value and revision as they are in etcd; revision 0: it is not there.
  etcdserverpb::KeyValue Get(const std::string& name) {
    const auto response = client_->List({Key(name), Key(name) + '\0'}, absl::Seconds(5));
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() && response->kvs_size() == 1 ? response->kvs(0) : etcdserverpb::KeyValue();
  }
  v1::View ViewInEtcd() {
    v1::View view;
    EXPECT_TRUE(view.ParseFromString(Get("view").value()));
    return view;
  }
  // The revision.
  int64_t Put(const std::string& name, const std::string& value, int64_t lease = 0) {
    etcdserverpb::TxnRequest txn;
    PutOnSuccess(&txn, Key(name), value)->set_lease(lease);
    const auto response = client_->Txn(txn, absl::Seconds(5));
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->header().revision() : 0;
  }
  void Delete(const std::string& name) {
    etcdserverpb::TxnRequest txn;
    txn.add_success()->mutable_request_delete_range()->set_key(Key(name));
    EXPECT_TRUE(client_->Txn(txn, absl::Seconds(5)).ok());
  }

  static std::unique_ptr<EtcdServer> etcd_;
  std::unique_ptr<EtcdClient> client_;
};
inline std::unique_ptr<EtcdServer> EtcdTest::etcd_;

}  // namespace penstock::server
