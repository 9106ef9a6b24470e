// The stream lane: what every lane must do, and what its open port must bear.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/unit/transport/lane_conformance.h"
#include "transport/stream/stream_lane.h"
#include "transport/stream/stream_server.h"
#include "transport/stream/stream_wire.h"
#include "transport/stream/tcp_socket.h"
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
    return std::make_unique<StreamLane>(StreamLaneOptions{.address = absl::StrCat("127.0.0.1:", options_.port), .token = token, .tls = options_.tls});
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
INSTANTIATE_TEST_SUITE_P(StreamTls, LaneConformance, ::testing::Values(+[]() -> std::unique_ptr<LanePair> {
                           return std::make_unique<StreamPair>(StreamServerOptions{.tls = true});
                         }));

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
  pair_->grants().ForgetToken(GrantsForTest::Token(kToken));  // its session is over
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

// --- TLS ---

// Between a client and the port, with an ear on the wire.
class Wiretap {
 public:
  explicit Wiretap(int port) : to_(absl::StrCat("127.0.0.1:", port)), listener_(*ListenTcp("127.0.0.1", 0)) {
    thread_ = std::thread([this] { Relay(); });
  }
  ~Wiretap() { (void)Heard(); }
  std::string address() const { return absl::StrCat("127.0.0.1:", *BoundPort(listener_.get())); }
  // All that went by; it ends with the connection.
  const std::string& Heard() {
    if (thread_.joinable()) thread_.join();
    return heard_;
  }

 private:
  void Relay() {
    pollfd coming{listener_.get(), POLLIN, 0};
    if (poll(&coming, 1, 10'000) <= 0) return;
    TcpSocket ends[2] = {*AcceptTcp(listener_.get()), *TcpSocket::BeginConnect(to_)};
    pollfd connected{ends[1].fd(), POLLOUT, 0};
    (void)poll(&connected, 1, 10'000);
    while (true) {
      pollfd entries[2] = {{ends[0].fd(), POLLIN, 0}, {ends[1].fd(), POLLIN, 0}};
      if (poll(entries, 2, 10'000) <= 0) return;
      for (int from = 0; from < 2; ++from) {
        if (entries[from].revents == 0) continue;
        char bytes[65536];
        const absl::StatusOr<size_t> got = ends[from].Receive(bytes, sizeof(bytes));
        if (!got.ok()) return;
        heard_.append(bytes, *got);
        for (size_t sent = 0; sent < *got;) {
          const absl::StatusOr<size_t> n = ends[1 - from].Send(bytes + sent, *got - sent, false);
          if (!n.ok()) return;
          sent += *n;
        }
      }
    }
  }

  const std::string to_;
  const UniqueFd listener_;
  std::string heard_;
  std::thread thread_;
};

TEST_F(StreamPortTest, NothingIsReadableOnTheWireWithTls) {
  for (const bool tls : {false, true}) {
    Open({.tls = tls});
    const std::string secret = "the launch codes are 0000";
    std::string block;
    while (block.size() < 300'000) block += secret;
    const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), std::vector<char>(block.begin(), block.end()), true);
    Wiretap wire(pair_->port());
    {
      StreamLane lane({.address = wire.address(), .token = GrantsForTest::Token(kToken), .streams = 1, .tls = tls});
      std::vector<char> out(block.size());
      Transfer transfers[] = {{.kind = TransferKind::kRead, .grant = grant, .runs = ByteRuns::Whole(out.size()), .memory = absl::MakeSpan(out)},
                              {.kind = TransferKind::kWrite, .grant = grant, .runs = ByteRuns::Whole(out.size()), .memory = absl::MakeSpan(out)}};
      for (Transfer& one : transfers) {
        lane.Run(absl::MakeSpan(&one, 1), {});
        ASSERT_TRUE(one.status.ok()) << one.status;
      }
      EXPECT_EQ(std::string(out.begin(), out.end()), block);
    }
    const std::string& heard = wire.Heard();
    EXPECT_GT(heard.size(), 2 * block.size());
    const LaneToken token = GrantsForTest::Token(kToken);
    for (const std::string& clear : {secret, std::string(token.begin(), token.end()), std::string("PENSTRM1").substr(0, 7)}) {
      EXPECT_EQ(heard.find(clear) == std::string::npos, tls) << clear;
    }
  }
}

// A new key, which the other end takes over.
TEST_F(StreamPortTest, KeysAreChangedUnderWay) {
  stream::TlsSession::RekeyAfterForTest(100'000);
  Open({.tls = true});
  std::vector<char> block(3'000'000);
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i * 31 + i / 251);
  const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), block, true);
  const auto lane = pair_->NewLane(GrantsForTest::Token(kToken));
  std::vector<char> out(block.size());
  for (int i = 0; i < 5; ++i) {
    std::fill(out.begin(), out.end(), 0);
    for (const TransferKind kind : {TransferKind::kRead, TransferKind::kWrite}) {
      Transfer transfer{.kind = kind, .grant = grant, .runs = ByteRuns::Whole(out.size()), .memory = absl::MakeSpan(out)};
      lane->Run(absl::MakeSpan(&transfer, 1), {});
      ASSERT_TRUE(transfer.status.ok()) << transfer.status;
    }
    ASSERT_TRUE(out == block && pair_->grants().Bytes(grant) == block);
  }
  EXPECT_GT(stream::TlsSession::key_changes(), 20u);
  stream::TlsSession::RekeyAfterForTest(stream::TlsSession::kRekeyBytes);
}

TEST_F(StreamPortTest, WithTlsAStrangerDoesNotGetPastTheHandshake) {
  Open({.hello_timeout = absl::Milliseconds(600), .tls = true});
  const uint64_t grant = pair_->grants().Add(GrantsForTest::Token(kToken), std::vector<char>(100, 'x'));
  const std::string address = absl::StrCat("127.0.0.1:", pair_->port());
  const auto read = [&](uint8_t token, bool tls) {
    std::vector<char> out(100);
    Transfer transfer{.grant = grant, .runs = ByteRuns::Whole(100), .memory = absl::MakeSpan(out)};
    StreamLane({.address = address, .token = GrantsForTest::Token(token), .tls = tls}).Run(absl::MakeSpan(&transfer, 1), {});
    EXPECT_EQ(transfer.status.ok(), out[0] == 'x');
    return transfer.status;
  };
  EXPECT_TRUE(absl::IsPermissionDenied(read(99, true))) << read(99, true);
  EXPECT_TRUE(absl::IsUnavailable(read(kToken, false))) << read(kToken, false);  // in clear: not even with the right token
  EXPECT_TRUE(read(kToken, true).ok());
  EXPECT_TRUE(Comes([&] { return pair_->server().counts().refused >= 2; }));
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 50; ++i) silent.push_back(Connect());
  for (int i = 0; i < 50; ++i) Send(silent[i], Hello());
  EXPECT_TRUE(Serves());
  EXPECT_TRUE(Comes([&] { return pair_->server().counts().connections == 0; }));
  pair_->grants().ForgetToken(GrantsForTest::Token(kToken));
  EXPECT_TRUE(absl::IsPermissionDenied(read(kToken, true)));
  Open({.tls = false});
  EXPECT_TRUE(absl::IsUnavailable(read(kToken, true)));  // one that speaks no TLS is not taken for one that does
}

TEST_F(StreamPortTest, ARecordThatIsChangedOnTheWayEndsTheConnection) {
  const LaneToken token = GrantsForTest::Token(kToken);
  Open({.tls = true});
  TcpSocket ends[2];
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
  int raw[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, raw), 0);
  ends[0] = TcpSocket(UniqueFd(pair[0]));
  ends[1] = TcpSocket(UniqueFd(raw[0]));
  const UniqueFd from(pair[1]), to(raw[1]);
  ASSERT_TRUE(ends[0].UseTlsAsClient(token).ok());
  ASSERT_TRUE(ends[1].UseTlsAsServer(&pair_->grants()).ok());
  int flip_at = -1;
  const auto carry = [&](int a, int b) {
    char bytes[4096];
    const ssize_t n = read(a, bytes, sizeof(bytes));
    if (n <= 0) return;
    if (flip_at >= 0 && flip_at < n) bytes[flip_at] ^= 1;
    ASSERT_EQ(write(b, bytes, static_cast<size_t>(n)), n);
  };
  char got[16];
  size_t sent = 0;
  absl::StatusOr<size_t> received = size_t{0};
  for (int i = 0; i < 20 && received.ok() && *received == 0; ++i) {
    if (sent == 0) sent = ends[0].Send("hello", 5, false).value_or(0);
    carry(from.get(), to.get());
    received = ends[1].Receive(got, sizeof(got));
    carry(to.get(), from.get());
  }
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(std::string(got, *received), "hello");
  flip_at = 10;  // in the record's body
  ASSERT_EQ(ends[0].Send("hello", 5, false).value_or(0), 5u);
  carry(from.get(), to.get());
  EXPECT_TRUE(absl::IsUnavailable(ends[1].Receive(got, sizeof(got)).status()));
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
