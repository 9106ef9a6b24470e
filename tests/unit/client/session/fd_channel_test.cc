// FdChannel against the other end of a socket pair.
#include "client/session/fd_channel.h"

#include <gtest/gtest.h>

#include <thread>

#include "transport/fd_socket/fd_socket.h"
#include "transport/futex.h"

namespace penstock::client {
namespace {

using layout::FdType;
using layout::SegmentMessage;

class FdChannelTest : public ::testing::Test {
 protected:
  FdChannelTest() {
    auto ends = *SocketPair();
    node_ = std::move(ends.second);
    channel_.Open(std::move(ends.first), &generation_);
  }
  SegmentMessage Receive() {
    SegmentMessage message{};
    const auto received = ReceiveMessage(
        node_.get(), absl::MakeSpan(reinterpret_cast<char*>(&message), sizeof(message)),
        absl::Seconds(10));
    EXPECT_TRUE(received.ok()) << received.status();
    return message;
  }
  template <class T>
  void Send(T message, FdType type, uint64_t number) {
    message.header = {layout::kFdMagic, type, layout::kLayoutVersion, number};
    EXPECT_TRUE(SendMessage(node_.get(),
                            absl::MakeConstSpan(reinterpret_cast<const char*>(&message), sizeof(T)),
                            {}, absl::Seconds(10))
                    .ok());
  }
  absl::StatusOr<FdReply> Ask(absl::Duration timeout = absl::Seconds(10)) {
    return channel_.Call(SegmentMessage{}, FdType::kGetSegment, {}, Deadline::After(timeout));
  }

  std::atomic<uint64_t> generation_{1};
  std::atomic<uint32_t> notices_{0};
  std::atomic<uint32_t> endings_{0};
  UniqueFd node_;
  FdChannel channel_{{.notice =
                          [this](FdReply) {
                            notices_.fetch_add(1);
                            FutexWake(&notices_);
                          },
                      .background = [] { return false; },
                      .ended =
                          [this] {
                            endings_.fetch_add(1);
                            FutexWake(&endings_);
                          }}};
};

TEST_F(FdChannelTest, RepliesFindTheirCallersInAnyOrder) {
  std::thread node([&] {
    const SegmentMessage first = Receive();
    const SegmentMessage second = Receive();
    for (const SegmentMessage& asked : {second, first}) {
      SegmentMessage reply{};
      reply.segment = asked.segment;
      Send(reply, FdType::kSegmentReply, asked.header.number);
    }
  });
  std::vector<std::thread> callers;
  for (uint32_t id : {7u, 8u}) {
    callers.emplace_back([&, id] {
      SegmentMessage request{};
      request.segment = id;
      const auto reply = channel_.Call(request, FdType::kGetSegment, {},
                                       Deadline::After(absl::Seconds(10)));
      ASSERT_TRUE(reply.ok()) << reply.status();
      EXPECT_EQ((*reply->As<SegmentMessage>(FdType::kSegmentReply, 0))->segment, id);
    });
  }
  for (std::thread& caller : callers) caller.join();
  node.join();
}

TEST_F(FdChannelTest, RefusalBecomesItsStatus) {
  std::thread node([&] {
    layout::RefusalMessage refusal{};
    refusal.code = static_cast<int32_t>(absl::StatusCode::kResourceExhausted);
    refusal.text_bytes = 4;
    memcpy(refusal.text, "full", 4);
    Send(refusal, FdType::kRefusal, Receive().header.number);
  });
  const auto reply = Ask();
  node.join();
  ASSERT_TRUE(reply.ok());
  const auto message = reply->As<SegmentMessage>(FdType::kSegmentReply, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(message.status()));
  EXPECT_EQ(message.status().message(), "full");
}

TEST_F(FdChannelTest, NoticesGoToTheirHandler) {
  ASSERT_TRUE(channel_.Start().ok());
  Send(SegmentMessage{}, FdType::kNewSegment, 0);
  while (notices_ == 0) FutexWait(&notices_, 0, absl::Seconds(1));
  EXPECT_EQ(notices_, 1u);
}

TEST_F(FdChannelTest, SilenceEndsAtTheDeadline) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(Ask(absl::Milliseconds(10)).status()));
  EXPECT_TRUE(channel_.alive());
}

TEST_F(FdChannelTest, EndOfTheSocketEndsCallsAndIsTold) {
  std::thread node([&] {
    Receive();
    node_.reset();
  });
  EXPECT_TRUE(absl::IsUnavailable(Ask().status()));
  node.join();
  while (endings_ == 0) FutexWait(&endings_, 0, absl::Seconds(1));
  EXPECT_FALSE(channel_.alive());
  EXPECT_TRUE(absl::IsUnavailable(Ask().status()));
}

TEST_F(FdChannelTest, RequestThatDiedWithItsNodeIsSentAgain) {
  std::thread node([&] {
    const SegmentMessage lost = Receive();
    generation_ = 2;
    const SegmentMessage again = Receive();
    EXPECT_EQ(again.header.number, lost.header.number);
    Send(SegmentMessage{}, FdType::kSegmentReply, again.header.number);
  });
  EXPECT_TRUE(Ask().ok());
  node.join();
}

TEST_F(FdChannelTest, BrokenPeerIsCutOff) {
  ASSERT_TRUE(channel_.Start().ok());
  EXPECT_TRUE(SendMessage(node_.get(), absl::MakeConstSpan("nonsense", 8), {}).ok());
  while (endings_ == 0) FutexWait(&endings_, 0, absl::Seconds(1));
  EXPECT_FALSE(channel_.alive());
}

}  // namespace
}  // namespace penstock::client
