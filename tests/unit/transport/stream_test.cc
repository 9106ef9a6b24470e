// The stream lane: what every lane must do, and what its open port must bear.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/unit/transport/lane_conformance.h"
#include "transport/stream/stream_lane.h"
#include "transport/stream/stream_server.h"
#include "transport/stream/stream_wire.h"
#include "transport/unique_fd.h"

namespace penstock {
namespace {

using stream::StreamAnswer;
using stream::StreamHello;
using stream::StreamRequest;
using ::testing::HasSubstr;

class StreamPair final : public LanePair {
 public:
  explicit StreamPair(StreamServerOptions options = {}) : options_(std::move(options)) { StartTarget(); }

  std::unique_ptr<Lane> NewLane(const LaneToken& token) override {
    return std::make_unique<StreamLane>(StreamLaneOptions{.address = absl::StrCat("127.0.0.1:", options_.port), .token = token});
  }
  void StopTarget() override { server_.reset(); }
  void StartTarget() override {
    options_.grants = &grants_;
    auto server = StreamServer::Start(options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    options_.port = server_->port();
  }
  StreamServer& server() { return *server_; }
  int port() const { return options_.port; }

 private:
  StreamServerOptions options_;
  std::unique_ptr<StreamServer> server_;
};

INSTANTIATE_TEST_SUITE_P(Stream, LaneConformance,
                         ::testing::Values(+[]() -> std::unique_ptr<LanePair> { return std::make_unique<StreamPair>(); }));

// --- strangers at the port ---

constexpr uint8_t kToken = 1;

class StreamPortTest : public ::testing::Test {
 protected:
  void Open(StreamServerOptions options = {}) {
    pair_ = std::make_unique<StreamPair>(options);
    pair_->grants().AddToken(GrantsForTest::Token(kToken));
  }
  UniqueFd Connect() {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(pair_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0) << strerror(errno);
    return fd;
  }
  template <class T>
  static void Send(const UniqueFd& fd, const T& message) {
    (void)!send(fd.get(), &message, sizeof(message), MSG_NOSIGNAL);
  }
  static StreamHello Hello(uint8_t token = kToken) {
    StreamHello hello{.magic = stream::kHelloMagic, .version = stream::kProtocolVersion, .reserved = 0, .token = {}, .zero = {}};
    std::memset(hello.token, token, sizeof(hello.token));
    return hello;
  }
  // All that comes until the server closes, or nothing more within 5 s.
  static std::string ReadAll(const UniqueFd& fd) {
    std::string all;
    char buffer[4096];
    pollfd entry{fd.get(), POLLIN, 0};
    while (poll(&entry, 1, 5000) > 0) {
      const ssize_t n = recv(fd.get(), buffer, sizeof(buffer), 0);
      if (n <= 0) return all + (n == 0 ? "<closed>" : "<reset>");
      all.append(buffer, static_cast<size_t>(n));
    }
    return all + "<still open>";
  }
  bool Serves() {
    std::vector<char> out(100);
    const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), std::vector<char>(100, 'x'));
    Transfer read{.grant = grant, .runs = ByteRuns::Whole(100), .memory = absl::MakeSpan(out)};
    pair_->NewLane(GrantsForTest::Token(kToken))->Run(absl::MakeSpan(&read, 1), {});
    return read.status.ok() && out[99] == 'x';
  }
  template <class Condition>
  static bool Comes(Condition condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (!condition() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    return condition();
  }

  std::unique_ptr<StreamPair> pair_;
};

TEST_F(StreamPortTest, GarbageIsNotAnsweredAndIsCounted) {
  Open();
  std::mt19937 random{7};
  for (int i = 0; i < 50; ++i) {
    const UniqueFd fd = Connect();
    char garbage[200];
    for (char& c : garbage) c = static_cast<char>(random());
    Send(fd, garbage);
    const std::string answer = ReadAll(fd);
    EXPECT_TRUE(answer == "<closed>" || answer == "<reset>") << answer;
  }
  EXPECT_EQ(pair_->server().counts().refused, 50u);
  EXPECT_TRUE(Comes([&] { return pair_->server().counts().connections == 0; }));
  EXPECT_TRUE(Serves());
}

TEST_F(StreamPortTest, UnknownTokenIsToldSo) {
  Open();
  const UniqueFd fd = Connect();
  Send(fd, Hello(99));
  shutdown(fd.get(), SHUT_WR);
  const std::string answer = ReadAll(fd);
  EXPECT_THAT(answer, HasSubstr("the session is not known here"));
  EXPECT_THAT(answer, HasSubstr("<closed>"));
}

TEST_F(StreamPortTest, AnotherProtocolVersionIsToldSo) {
  Open();
  const UniqueFd fd = Connect();
  StreamHello hello = Hello();
  hello.version = 7;
  Send(fd, hello);
  shutdown(fd.get(), SHUT_WR);
  EXPECT_THAT(ReadAll(fd), HasSubstr("stream protocol version 7"));
}

TEST_F(StreamPortTest, MalformedRequestsEndTheConnection) {
  Open();
  const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), std::vector<char>(100, 'x'));
  const StreamRequest good{.request_id = 1, .kind = 1, .dim_count = 0, .zero = {}, .grant = grant, .offset = 0, .run_bytes = 100, .skip = 0, .length = 100};
  std::vector<StreamRequest> bad(4, good);
  bad[0].kind = 3;
  bad[1].request_id = 0;
  bad[2].dim_count = 17;
  bad[3].zero[5] = 1;
  for (const StreamRequest& request : bad) {
    const UniqueFd fd = Connect();
    Send(fd, Hello());
    Send(fd, request);
    shutdown(fd.get(), SHUT_WR);
    EXPECT_THAT(ReadAll(fd), HasSubstr("malformed"));
  }
  for (auto [skip, length] : {std::pair<uint64_t, uint64_t>{0, 101}, {101, 0}, {~uint64_t{0}, 2}, {1, ~uint64_t{0}}}) {
    const UniqueFd fd = Connect();
    StreamRequest request = good;
    request.skip = skip;
    request.length = length;
    Send(fd, Hello());
    Send(fd, request);
    Send(fd, good);  // a refused read is no reason to close
    shutdown(fd.get(), SHUT_WR);
    const std::string answers = ReadAll(fd);
    EXPECT_THAT(answers, HasSubstr("the runs have 100 bytes"));
    EXPECT_THAT(answers, HasSubstr(std::string(100, 'x')));
  }
  EXPECT_TRUE(Serves());
}

TEST_F(StreamPortTest, WhoSaysNothingIsClosedInTimeAndSlowsNobody) {
  Open({.max_strangers = 32, .hello_timeout = absl::Milliseconds(600)});
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(Connect());
  EXPECT_TRUE(Comes([&] { return pair_->server().counts().refused >= 200 - 32; }));
  EXPECT_LE(pair_->server().counts().strangers, 32u);
  EXPECT_TRUE(Serves());
  EXPECT_TRUE(Comes([&] { return pair_->server().counts().connections == 0; }));
  EXPECT_TRUE(Serves());
}

TEST_F(StreamPortTest, ManyConnectionsOfOneTokenKeepNoOtherOut) {
  Open({.max_connections_per_token = 4});
  std::vector<UniqueFd> greedy;
  for (int i = 0; i < 20; ++i) {
    greedy.push_back(Connect());
    Send(greedy.back(), Hello());
  }
  EXPECT_TRUE(Comes([&] { return pair_->server().counts().refused == 16; }));
  pair_->grants().AddToken(GrantsForTest::Token(2));
  const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(2), std::vector<char>(10, 'x'));
  std::vector<char> out(10);
  Transfer read{.grant = grant, .runs = ByteRuns::Whole(10), .memory = absl::MakeSpan(out)};
  pair_->NewLane(GrantsForTest::Token(2))->Run(absl::MakeSpan(&read, 1), {});
  EXPECT_TRUE(read.status.ok()) << read.status;
}

TEST_F(StreamPortTest, DisconnectEndsASessionThatDoesNotRead) {
  Open();
  constexpr size_t kBytes = 64 << 20;  // more than the sockets buffer
  const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), std::vector<char>(kBytes, 'x'));
  const UniqueFd fd = Connect();
  Send(fd, Hello());
  Send(fd, StreamRequest{.request_id = 1, .kind = 1, .dim_count = 0, .zero = {}, .grant = grant, .offset = 0, .run_bytes = kBytes, .skip = 0, .length = kBytes});
  ASSERT_TRUE(Comes([&] { return pair_->grants().uses() == 1; }));
  EXPECT_TRUE(Serves());  // one that does not read is nobody else's loss
  pair_->server().Disconnect(GrantsForTest::Token(kToken));
  EXPECT_TRUE(Comes([&] { return pair_->grants().uses() == 0; }));
}

TEST_F(StreamPortTest, ASilentPeerIsLeftAtTheDeadline) {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 8), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  StreamLane lane({.address = absl::StrCat("127.0.0.1:", ntohs(address.sin_port)), .token = GrantsForTest::Token(kToken)});
  std::vector<char> out(100);
  Transfer read{.grant = 1, .runs = ByteRuns::Whole(100), .memory = absl::MakeSpan(out)};
  const absl::Time begin = absl::Now();
  lane.Run(absl::MakeSpan(&read, 1), {.timeout = absl::Milliseconds(300)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(read.status)) << read.status;
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - begin, absl::Milliseconds(1300));
}

TEST_F(StreamPortTest, AForkedChildHasConnectionsOfItsOwn) {
  Open();
  const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), std::vector<char>(100, 'x'));
  const auto lane = pair_->NewLane(GrantsForTest::Token(kToken));
  const auto reads = [&] {
    std::vector<char> out(100);
    Transfer read{.grant = grant, .runs = ByteRuns::Whole(100), .memory = absl::MakeSpan(out)};
    lane->Run(absl::MakeSpan(&read, 1), {});
    return read.status.ok() && out[0] == 'x';
  };
  ASSERT_TRUE(reads());
  const pid_t child = fork();
  if (child == 0) _exit(reads() ? 0 : 1);
  EXPECT_TRUE(reads());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(reads());
}

TEST_F(StreamPortTest, BadAddressesAreClearErrors) {
  const auto read = [](const std::string& address) {
    char byte;
    Transfer transfer{.grant = 1, .runs = ByteRuns::Whole(1), .memory = {&byte, 1}};
    StreamLane({.address = address}).Run(absl::MakeSpan(&transfer, 1), {});
    return transfer.status;
  };
  EXPECT_TRUE(absl::IsInvalidArgument(read("nothing"))) << read("nothing");
  EXPECT_TRUE(absl::IsInvalidArgument(read("no such host.invalid:7"))) << read("no such host.invalid:7");
  EXPECT_TRUE(absl::IsUnavailable(read("127.0.0.1:1"))) << read("127.0.0.1:1");
  EXPECT_TRUE(absl::IsInvalidArgument(StreamServer::Start({}).status()));
}

}  // namespace
}  // namespace penstock
