#include "tests/unit/client/node/node_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/time/clock.h"
#include "proto/rpc_methods.h"

namespace penstock::testing {
namespace {

std::string DaemonPath() {
  if (const char* path = getenv("PENSTOCKD"); path != nullptr) return path;
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path().parent_path().parent_path() / "bin" / "penstockd").string();
}

template <class Response, class Request>
Response Ask(Client& client, rpc::Method method, const Request& request) {
  Response response;
  const auto answer = client.Call(static_cast<uint32_t>(method), request.SerializeAsString());
  EXPECT_TRUE(answer.ok()) << answer.status();
  EXPECT_TRUE(response.ParseFromString(answer.value_or("")));
  return response;
}

}  // namespace

NodeProcess::NodeProcess(const std::string& memory, const std::vector<std::string>& flags) {
  char pattern[] = "/tmp/penstock-test-XXXXXX";
  dir_ = mkdtemp(pattern);
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) abort();
  std::vector<std::string> args = {DaemonPath(),           "--socket_dir=" + dir_,
                                   "--memory=" + memory,   "--grpc_port=none",
                                   "--exit_with_parent",   "--ready_fd=50"};
  args.insert(args.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(ready[1], 50);
    execv(argv[0], argv.data());
    _exit(127);
  }
  close(ready[1]);
  pollfd polled{ready[0], POLLIN, 0};
  char line[512];
  const bool serving = poll(&polled, 1, 20'000) == 1 && read(ready[0], line, sizeof(line)) > 0;
  EXPECT_TRUE(serving) << "penstockd does not serve: " << args[0];
  close(ready[0]);
}

NodeProcess::~NodeProcess() {
  Stop(SIGTERM);
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

void NodeProcess::Stop(int signal) {
  if (pid_ <= 0) return;
  kill(pid_, signal);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::unique_ptr<Client> NodeProcess::Connect(const std::string& label) const {
  auto client = Client::Connect({.address = dir_, .timeout = absl::Seconds(20), .label = label});
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

v1::DfResponse Df(Client& client) {
  return Ask<v1::DfResponse>(client, rpc::Method::kDf, v1::DfRequest());
}

v1::NodeInfoResponse NodeInfo(Client& client) {
  return Ask<v1::NodeInfoResponse>(client, rpc::Method::kNodeInfo, v1::NodeInfoRequest());
}

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

pid_t ForkChild(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  alarm(30);
  _exit(body());
}

bool JoinChild(pid_t pid) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return false;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  ADD_FAILURE() << "child ended with "
                << (WIFEXITED(status) ? "exit code " : "signal ")
                << (WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  return false;
}

bool InChild(const std::function<int()>& body) { return JoinChild(ForkChild(body)); }

std::vector<float> Floats(size_t count, float seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = seed + static_cast<float>(i % 1021);
  return values;
}

ConstTensorRef Ref(const std::vector<float>& values) {
  return {values.data(), DType::kF32, Shape{static_cast<int64_t>(values.size())}, {}};
}

}  // namespace penstock::testing
