// The warden's side of its protocol, message by message, against raw and wrong ones.
#include "server/warden/request_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::warden {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(30);

class RequestServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto ends = SocketPair();
    ASSERT_TRUE(ends.ok()) << ends.status();
    warden_ = std::move(ends->first);
    node_ = std::move(ends->second);
  }

  static Request MakeRequest(Op op, uint64_t id) {
    Request request{};
    request.magic = kWardenMagic;
    request.op = op;
    request.id = id;
    request.number = 17;
    return request;
  }

  static Request MakeCreate(uint64_t bytes, uint32_t flags) {
    Request request = MakeRequest(Op::kCreateSegment, 0);
    request.kind = static_cast<uint32_t>(layout::SegmentKind::kArena);
    request.bytes = bytes;
    request.flags = flags;
    return request;
  }

  absl::Status Send(const Request& request, absl::Span<const int> fds = {}) {
    return SendMessage(node_.get(), {reinterpret_cast<const char*>(&request), sizeof(request)},
                       fds);
  }

  Reply Receive(absl::Duration timeout = kPatience) {
    Reply reply{};
    auto message =
        ReceiveMessage(node_.get(), {reinterpret_cast<char*>(&reply), sizeof(reply)}, timeout);
    if (!message.ok()) reply.code = -1;
    return reply;
  }

  Reply Ask(const Request& request, absl::Span<const int> fds = {}) {
    EXPECT_TRUE(Send(request, fds).ok());
    EXPECT_TRUE(server_.OnReadable(warden_.get()).ok());
    return Receive();
  }

  // Waits for the populating children, as the warden's loop does, and answers for them.
  void WaitForChildren() {
    for (;;) {
      std::vector<pollfd> fds;
      server_.AppendPollFds(&fds);
      if (fds.empty()) return;
      ASSERT_EQ(poll(fds.data(), fds.size(), 30'000) > 0, true);
      ASSERT_TRUE(server_.OnChildren(warden_.get()).ok());
    }
  }

  SegmentTable segments_{PageKind::kSmall, [](const std::string&) {}};
  SessionTable sessions_;
  RequestServer server_{&segments_, &sessions_};
  UniqueFd warden_, node_;
};

TEST_F(RequestServerTest, PopulatedSegmentIsAnsweredWhenItsChildHasEnded) {
  const Reply created = Ask(MakeCreate(1 << 20, kFlagPopulate));
  ASSERT_EQ(created.code, 0);
  EXPECT_EQ(created.number, 17u);
  ASSERT_TRUE(Send(MakeRequest(Op::kPopulateSegment, created.id)).ok());
  ASSERT_TRUE(server_.OnReadable(warden_.get()).ok());
  WaitForChildren();
  EXPECT_EQ(Receive().code, 0);
  server_.Abandon();
  EXPECT_EQ(segments_.size(), 1u) << "it is ready: the next node inherits it";
}

TEST_F(RequestServerTest, KilledChildIsResourceExhaustedAndDropsTheSegment) {
  const Reply created = Ask(MakeCreate(uint64_t{1} << 30, kFlagPopulate));
  ASSERT_EQ(created.code, 0);
  ASSERT_TRUE(Send(MakeRequest(Op::kPopulateSegment, created.id)).ok());
  ASSERT_TRUE(server_.OnReadable(warden_.get()).ok());
  pid_t child = 0;
  std::ifstream(absl::StrCat("/proc/self/task/", getpid(), "/children")) >> child;
  ASSERT_GT(child, 0);
  ASSERT_EQ(kill(child, SIGKILL), 0);
  WaitForChildren();
  const Reply reply = Receive();
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.code), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(segments_.size(), 0u);
}

TEST_F(RequestServerTest, NodeThatDiesWhileASegmentIsMadeLeavesNothing) {
  const Reply created = Ask(MakeCreate(uint64_t{64} << 20, kFlagPopulate));
  ASSERT_TRUE(Send(MakeRequest(Op::kPopulateSegment, created.id)).ok());
  ASSERT_TRUE(server_.OnReadable(warden_.get()).ok());
  ASSERT_EQ(Ask(MakeCreate(4096, kFlagPopulate)).code, 0);
  ASSERT_EQ(Ask(MakeCreate(4096, 0)).code, 0);
  server_.Abandon();
  std::vector<pollfd> children;
  server_.AppendPollFds(&children);
  EXPECT_TRUE(children.empty());
  EXPECT_EQ(segments_.size(), 1u) << "only what was complete stays";
}

TEST_F(RequestServerTest, SegmentThatIsBeingPopulatedIsNeitherDroppedNorPopulatedTwice) {
  const Reply created = Ask(MakeCreate(uint64_t{64} << 20, kFlagPopulate));
  ASSERT_TRUE(Send(MakeRequest(Op::kPopulateSegment, created.id)).ok());
  ASSERT_TRUE(server_.OnReadable(warden_.get()).ok());
  const Reply dropped = Ask(MakeRequest(Op::kDropSegment, created.id));
  EXPECT_EQ(static_cast<absl::StatusCode>(dropped.code), absl::StatusCode::kFailedPrecondition);
  const Reply again = Ask(MakeRequest(Op::kPopulateSegment, created.id));
  EXPECT_EQ(static_cast<absl::StatusCode>(again.code), absl::StatusCode::kAlreadyExists);
  WaitForChildren();
  EXPECT_EQ(Receive().code, 0);
}

TEST_F(RequestServerTest, UnknownIdsAndOperationsAreAnsweredWithErrors) {
  for (const Op op : {Op::kPopulateSegment, Op::kMarkSealed, Op::kDropSegment, Op::kDropSession}) {
    const Reply reply = Ask(MakeRequest(op, 99));
    EXPECT_EQ(static_cast<absl::StatusCode>(reply.code), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(reply.text, reply.text_bytes), HasSubstr("99"));
  }
  const Reply reply = Ask(MakeRequest(static_cast<Op>(1234), 0));
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.code), absl::StatusCode::kUnimplemented);
}

TEST_F(RequestServerTest, MalformedMessagesEndTheNode) {
  Request wrong = MakeRequest(Op::kDropSession, 1);
  wrong.magic = 1;
  ASSERT_TRUE(Send(wrong).ok());
  EXPECT_FALSE(server_.OnReadable(warden_.get()).ok());
  wrong = MakeRequest(Op::kKeepSession, 1);
  wrong.blob_bytes = kMaxBlobBytes + 1;
  ASSERT_TRUE(Send(wrong).ok());
  EXPECT_FALSE(server_.OnReadable(warden_.get()).ok());
  ASSERT_TRUE(SendMessage(node_.get(), "short", {}).ok());
  EXPECT_FALSE(server_.OnReadable(warden_.get()).ok());
  ASSERT_TRUE(SendMessage(node_.get(), std::string(5000, 'x'), {}).ok());
  EXPECT_FALSE(server_.OnReadable(warden_.get()).ok());
  node_.reset();
  EXPECT_TRUE(absl::IsUnavailable(server_.OnReadable(warden_.get())));
}

TEST_F(RequestServerTest, NodeThatDoesNotReadItsAnswersIsCutOffInsteadOfBlockingTheWarden) {
  absl::Status served = absl::OkStatus();
  for (int i = 0; i < 100'000 && served.ok(); ++i) {
    ASSERT_TRUE(Send(MakeRequest(Op::kDropSession, 1)).ok());
    served = server_.OnReadable(warden_.get());
  }
  EXPECT_FALSE(served.ok());
}

TEST_F(RequestServerTest, SessionInPartsReplacesTheOldOneOnlyWhenItIsWhole) {
  const int fd = warden_.get();
  Request request = MakeRequest(Op::kKeepSession, 3);
  std::memcpy(request.blob, "old", 3);
  request.blob_bytes = 3;
  ASSERT_EQ(Ask(request, {fd}).code, 0);
  std::memcpy(request.blob, "new", 3);
  request.flags = kFlagMore;
  ASSERT_TRUE(Send(request, {fd, fd}).ok());
  ASSERT_TRUE(server_.OnReadable(warden_.get()).ok());
  EXPECT_EQ(Receive(absl::ZeroDuration()).code, -1) << "nothing is answered before the last part";
  server_.Abandon();  // the node died
  auto kept = sessions_.Inherit();
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(kept[0].blob, "old");
  EXPECT_EQ(kept[0].fds.size(), 1u);
}

TEST_F(RequestServerTest, SessionHasALimitOfDescriptors) {
  const int fd = warden_.get();
  ASSERT_EQ(Ask(MakeRequest(Op::kKeepSession, 3), {fd}).code, 0);
  for (size_t i = 1; i < kMaxSessionFds; ++i) {
    ASSERT_EQ(Ask(MakeRequest(Op::kAddSessionFd, 3), {fd}).code, 0) << i;
  }
  const Reply over = Ask(MakeRequest(Op::kAddSessionFd, 3), {fd});
  EXPECT_EQ(static_cast<absl::StatusCode>(over.code), absl::StatusCode::kResourceExhausted);
  const Reply none = Ask(MakeRequest(Op::kAddSessionFd, 3));
  EXPECT_EQ(static_cast<absl::StatusCode>(none.code), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace penstock::warden
