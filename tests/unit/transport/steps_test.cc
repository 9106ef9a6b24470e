// Steps of channels on the data port: what a reader gets of them, and what each end bears of the other.
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/unit/transport/grants_for_test.h"
#include "tests/unit/transport/steps_for_test.h"
#include "transport/stream/step_reader.h"
#include "transport/stream/stream_server.h"

namespace penstock::stream {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using State = StepSource::State;

constexpr uint64_t kMib = uint64_t{1} << 20;

// Memory of channels that are followed, by grant.
class SinkForTest final : public StepReader::Sink {
 public:
  absl::StatusOr<char*> Begin(uint64_t grant, uint64_t seq, uint64_t nbytes) override {
    if (refuse) return absl::UnavailableError("not this one");
    if (!wanted) return nullptr;
    memory[grant].assign(nbytes + 1, '?');
    return memory[grant].data();
  }
  void End(uint64_t grant, uint64_t seq) override {
    seqs[grant].push_back(seq);
    ++steps;
  }
  void Over(uint64_t grant, const absl::Status& why) override { over.emplace_back(grant, why); }

  bool Shows(uint64_t grant, uint64_t nbytes, char fill) const {
    const std::vector<char>& bytes = memory.at(grant);
    return bytes.size() == nbytes + 1 && std::string(bytes.data(), nbytes) == std::string(nbytes, fill) && bytes[nbytes] == '?';
  }

  bool refuse = false, wanted = true;
  std::map<uint64_t, std::vector<char>> memory;
  std::map<uint64_t, std::vector<uint64_t>> seqs;
  std::vector<std::pair<uint64_t, absl::Status>> over;
  int steps = 0;
};

class StepsTest : public ::testing::TestWithParam<bool> {  // with TLS
 protected:
  void SetUp() override {
    bell_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    token_ = GrantsForTest::Token(1);
    grants_.AddToken(token_);
    server_ = StreamServer::Start({.grants = &grants_, .bell_fd = bell_.get(), .tls = GetParam()}).value();
    reader_ = NewReader();
  }
  std::unique_ptr<StepReader> NewReader() {
    return StepReader::Connect(absl::StrCat("127.0.0.1:", server_->port()), token_, GetParam()).value();
  }
  void Ring() {
    const uint64_t one = 1;
    ASSERT_EQ(write(bell_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }
  // Until it is so, or the connection ends.
  template <class Condition>
  absl::Status Drive(StepReader& reader, SinkForTest& sink, Condition condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!condition()) {
      if (absl::Now() > deadline) return absl::DeadlineExceededError("it did not come");
      pollfd entry{reader.fd(), reader.wanted_events(), 0};
      if (!reader.has_input()) poll(&entry, 1, 20);
      if (absl::Status s = reader.Step(&sink); !s.ok()) return s;
    }
    return absl::OkStatus();
  }
  absl::Status Await(int steps) {
    return Drive(*reader_, sink_, [&] { return sink_.steps >= steps; });
  }
  absl::Status AwaitOver(size_t count) {
    return Drive(*reader_, sink_, [&] { return sink_.over.size() >= count; });
  }

  UniqueFd bell_;
  LaneToken token_;
  GrantsForTest grants_;
  std::unique_ptr<StreamServer> server_;
  std::unique_ptr<StepReader> reader_;
  SinkForTest sink_;
};

INSTANTIATE_TEST_SUITE_P(Stream, StepsTest, ::testing::Bool(), [](const auto& info) { return info.param ? "Tls" : "Plain"; });

TEST_P(StepsTest, AStepComesWhenTheBellRings) {
  const auto steps = std::make_shared<StepsForTest>(1000);
  const uint64_t grant = grants_.AddSteps(token_, steps);
  reader_->Await(grant, 0);
  ASSERT_TRUE(Drive(*reader_, sink_, [&] { return steps->looks() > 0; }).ok());
  for (uint64_t seq = 1; seq <= 20; ++seq) {
    steps->Put(seq, static_cast<char>('a' + seq));
    Ring();
    ASSERT_TRUE(Await(static_cast<int>(seq)).ok());
    EXPECT_TRUE(sink_.Shows(grant, 1000, static_cast<char>('a' + seq)));
    reader_->Await(grant, seq);
  }
  EXPECT_EQ(server_->counts().sent_bytes, 20 * 1000u);
}

TEST_P(StepsTest, AStepOfEverySizeIsWhole) {
  for (uint64_t nbytes : {uint64_t{0}, uint64_t{1}, uint64_t{16} << 10, (uint64_t{16} << 10) + 1, uint64_t{64} << 10, 3 * kMib + 7}) {
    const auto steps = std::make_shared<StepsForTest>(nbytes);
    const uint64_t grant = grants_.AddSteps(token_, steps);
    steps->Put(5, 's');
    const int before = sink_.steps;
    reader_->Await(grant, 3);
    ASSERT_TRUE(Await(before + 1).ok()) << nbytes;
    EXPECT_TRUE(sink_.Shows(grant, nbytes, 's')) << nbytes;
    EXPECT_THAT(sink_.seqs[grant], ElementsAre(5));
  }
}

TEST_P(StepsTest, RequestsThatAreAheadGetStepsOneAfterTheOther) {
  const auto steps = std::make_shared<StepsForTest>(10);
  const uint64_t grant = grants_.AddSteps(token_, steps);
  for (uint64_t seq = 1; seq <= 5; ++seq) steps->Put(seq, 'x');
  for (int i = 0; i < 3; ++i) reader_->Await(grant, 0);
  ASSERT_TRUE(Await(3).ok());
  EXPECT_THAT(sink_.seqs[grant], ElementsAre(1, 2, 3)) << "who does not ask gets none";
}

TEST_P(StepsTest, ManyChannelsTakeTurnsAndOneThatIsSilentHoldsUpNone) {
  const auto silent = std::make_shared<StepsForTest>(10);
  reader_->Await(grants_.AddSteps(token_, silent), 0);
  std::vector<std::shared_ptr<StepsForTest>> all;
  std::vector<uint64_t> grants;
  for (int i = 0; i < 200; ++i) {
    all.push_back(std::make_shared<StepsForTest>(100));
    grants.push_back(grants_.AddSteps(token_, all.back()));
    reader_->Await(grants.back(), 0);
  }
  for (const auto& steps : all) steps->Put(1, 'x');
  Ring();
  ASSERT_TRUE(Await(200).ok());
  for (uint64_t grant : grants) EXPECT_THAT(sink_.seqs[grant], ElementsAre(1));
}

TEST_P(StepsTest, AClosedChannelSaysSoAfterItsLastStep) {
  const auto steps = std::make_shared<StepsForTest>(10);
  const uint64_t grant = grants_.AddSteps(token_, steps);
  for (int i = 0; i < 3; ++i) reader_->Await(grant, 0);
  steps->Put(1, 'x');
  steps->End(State::kClosed);
  Ring();
  ASSERT_TRUE(AwaitOver(2).ok());
  EXPECT_THAT(sink_.seqs[grant], ElementsAre(1));
  EXPECT_TRUE(sink_.over[0].second.ok() && sink_.over[1].second.ok());
  EXPECT_FALSE(steps->claimed());
}

TEST_P(StepsTest, AReleasedGrantAndAForeignOneAreErrorsOfTheirOwn) {
  const auto steps = std::make_shared<StepsForTest>(10);
  const uint64_t grant = grants_.AddSteps(token_, steps);
  const uint64_t foreign = grants_.AddSteps(GrantsForTest::Token(2), std::make_shared<StepsForTest>(10));
  reader_->Await(grant, 0);
  reader_->Await(foreign, 0);
  reader_->Await(12345, 0);
  ASSERT_TRUE(AwaitOver(2).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(sink_.over[0].second) && absl::IsPermissionDenied(sink_.over[1].second));
  steps->End(State::kReleased);
  ASSERT_TRUE(AwaitOver(3).ok()) << "without a bell";
  EXPECT_EQ(sink_.over[2].first, grant);
  EXPECT_TRUE(absl::IsPermissionDenied(sink_.over[2].second));
}

TEST_P(StepsTest, OneConnectionFollowsAChannelByOneGrant) {
  const auto steps = std::make_shared<StepsForTest>(10);
  const uint64_t grant = grants_.AddSteps(token_, steps);
  reader_->Await(grant, 0);
  ASSERT_TRUE(Drive(*reader_, sink_, [&] { return steps->claimed(); }).ok());
  const auto other = NewReader();
  SinkForTest others;
  other->Await(grant, 0);
  ASSERT_TRUE(Drive(*other, others, [&] { return !others.over.empty(); }).ok());
  EXPECT_EQ(others.over[0].second.code(), absl::StatusCode::kFailedPrecondition);
  reader_.reset();
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (steps->claimed() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(steps->claimed());
}

TEST_P(StepsTest, ATornStepIsNotSentAndNotTriedForEver) {
  const auto steps = std::make_shared<StepsForTest>(10);
  const uint64_t grant = grants_.AddSteps(token_, steps);
  steps->Put(1, 'x');
  steps->TearAll(true);
  reader_->Await(grant, 0);
  ASSERT_TRUE(Drive(*reader_, sink_, [&] { return steps->copies() >= 3; }).ok());
  const int copies = steps->copies();
  EXPECT_EQ(Drive(*reader_, sink_, [&, end = absl::Now() + absl::Milliseconds(500)] { return absl::Now() > end; }), absl::OkStatus());
  EXPECT_LT(steps->copies(), copies + 40) << "it is looked at again now and then, not all the time";
  EXPECT_EQ(sink_.steps, 0);
  steps->TearAll(false);
  Ring();
  ASSERT_TRUE(Await(1).ok());
  EXPECT_TRUE(sink_.Shows(grant, 10, 'x'));
}

TEST_P(StepsTest, AReaderThatTakesNothingHoldsUpNobody) {
  const auto large = std::make_shared<StepsForTest>(64 * kMib);
  large->Put(1, 'x');
  reader_->Await(grants_.AddSteps(token_, large), 0);
  ASSERT_TRUE(Drive(*reader_, sink_, [&] { return large->copies() >= 65; }).ok());  // and from here on it reads nothing
  const auto small = std::make_shared<StepsForTest>(10);
  const auto other = NewReader();
  SinkForTest others;
  other->Await(grants_.AddSteps(token_, small), 0);
  small->Put(1, 'y');
  Ring();
  ASSERT_TRUE(Drive(*other, others, [&] { return others.steps == 1; }).ok());
  large->Forget(1);  // the writer goes on
  ASSERT_TRUE(Await(1).ok());
  EXPECT_TRUE(sink_.Shows(1, 64 * kMib, 'x')) << "a copy was sent";
}

TEST_P(StepsTest, DisconnectEndsTheWaitOfATokensHolder) {
  const auto steps = std::make_shared<StepsForTest>(10);
  reader_->Await(grants_.AddSteps(token_, steps), 0);
  ASSERT_TRUE(Drive(*reader_, sink_, [&] { return steps->claimed(); }).ok());
  grants_.ForgetToken(token_);  // its session is over
  server_->Disconnect(token_);
  EXPECT_FALSE(Drive(*reader_, sink_, [] { return false; }).ok());
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (steps->claimed() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_FALSE(steps->claimed());
}

// --- against ends that send anything ---

struct FakePeer {
  FakePeer() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    ours = UniqueFd(fds[0]);
    reader = StepReader::Over(TcpSocket(UniqueFd(fds[1])), GrantsForTest::Token(1));
    reader->Await(7, 0);
    Send(StreamAnswer{0, 0, 0, 0});
  }
  template <class T>
  void Send(const T& message) {
    EXPECT_EQ(send(ours.get(), &message, sizeof(message), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(message)));
  }
  void SendText(const std::string& text) { EXPECT_EQ(send(ours.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size())); }
  absl::Status Step() { return reader->Step(&sink); }

  UniqueFd ours;
  std::unique_ptr<StepReader> reader;
  SinkForTest sink;
};

TEST(StepReaderTest, EveryNumberIsChecked) {
  const std::vector<std::pair<StreamAnswer, StepHead>> wrong = {
      {{2, 0, 0, 26}, {1, 0, 0}},                // an answer to nothing
      {{1, 0, 0, 15}, {1, 0, 0}},                // no room for the head
      {{1, 0, kMaxMessageText + 1, 26}, {1, 0, 0}},
      {{1, 0, 0, 26}, {0, 0, 0}},                // no step
      {{1, 0, 0, 26}, {kMaxStep + 1, 0, 0}},     // twice it would overflow
      {{1, 0, 0, 26}, {1, 2, 0}},                // flags that nobody knows
      {{1, 0, 0, 26}, {1, 0, 1}},
      {{1, 0, 0, 26}, {0, kStepClosed, 0}},      // an end with bytes
      {{1, 0, 0, 16}, {1, kStepClosed, 0}},      // an end with a number
  };
  for (const auto& [answer, head] : wrong) {
    FakePeer peer;
    peer.Send(answer);
    peer.Send(head);
    EXPECT_TRUE(absl::IsUnavailable(peer.Step())) << answer.request_id << " " << answer.payload_bytes << " " << head.seq << " " << head.flags;
    EXPECT_EQ(peer.sink.steps, 0);
    EXPECT_TRUE(peer.sink.over.empty());
  }
}

TEST(StepReaderTest, WhatTheSinkDoesNotWantIsDroppedOrEndsTheConnection) {
  FakePeer peer;
  peer.sink.wanted = false;
  peer.reader->Await(8, 0);
  peer.Send(StreamAnswer{1, 0, 0, sizeof(StepHead) + 40'000});
  peer.Send(StepHead{1, 0, 0});
  peer.SendText(std::string(40'000, 'd'));
  ASSERT_TRUE(peer.Step().ok());
  EXPECT_EQ(peer.sink.steps, 0);
  peer.sink.wanted = true;
  peer.sink.refuse = true;
  peer.Send(StreamAnswer{2, 0, 0, sizeof(StepHead) + 10});
  peer.Send(StepHead{1, 0, 0});
  EXPECT_THAT(std::string(peer.Step().message()), HasSubstr("not this one"));
}

TEST(StepReaderTest, AnAnswerIsGivenOnce) {
  FakePeer peer;
  for (int i = 0; i < 2; ++i) {
    peer.Send(StreamAnswer{1, 0, 0, sizeof(StepHead) + 1});
    peer.Send(StepHead{1, 0, 0});
    peer.SendText("s");
  }
  EXPECT_TRUE(absl::IsUnavailable(peer.Step()));
  EXPECT_EQ(peer.sink.steps, 1);
}

TEST_P(StepsTest, MalformedRequestsEndTheConnection) {
  if (GetParam()) GTEST_SKIP() << "is the same below TLS";
  const StreamRequest good{.request_id = 1, .kind = kAwaitStep, .dim_count = 0, .zero = {}, .grant = 1, .offset = 0, .run_bytes = 0, .skip = 0, .length = 0};
  std::vector<StreamRequest> wrong(7, good);
  wrong[0].request_id = 0;
  wrong[1].dim_count = 1;
  wrong[2].zero[3] = 1;
  wrong[3].run_bytes = 1;
  wrong[4].skip = 1;
  wrong[5].length = 1;
  wrong[6].offset = kMaxStep + 1;
  for (const StreamRequest& request : wrong) {
    const uint64_t refused = server_->counts().refused;
    TcpSocket socket = TcpSocket::BeginConnect(absl::StrCat("127.0.0.1:", server_->port())).value();
    StreamHello hello{.magic = kHelloMagic, .version = kProtocolVersion, .reserved = 0, .token = {}, .zero = {}};
    std::memcpy(hello.token, token_.data(), token_.size());
    std::string bytes(reinterpret_cast<const char*>(&hello), sizeof(hello));
    bytes.append(reinterpret_cast<const char*>(&request), sizeof(request));
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    size_t sent = 0;
    while (sent < bytes.size() && absl::Now() < deadline) {
      pollfd entry{socket.fd(), POLLOUT, 0};
      poll(&entry, 1, 100);
      sent += socket.Send(bytes.data() + sent, bytes.size() - sent, false).value_or(0);
    }
    while (server_->counts().refused == refused && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(server_->counts().refused, refused + 1);
  }
}

}  // namespace
}  // namespace penstock::stream
