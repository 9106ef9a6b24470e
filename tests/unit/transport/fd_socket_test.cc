#include "transport/fd_socket/fd_socket.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/unit/transport/in_child.h"

namespace penstock {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(20);

absl::Span<const char> Bytes(const std::string& text) { return {text.data(), text.size()}; }

size_t OpenDescriptorCount() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

class FdSocket : public testing::Test {
 protected:
  FdSocket() {
    std::string name = testing::TempDir() + "penstock_fd_XXXXXX";
    directory_ = mkdtemp(name.data());
    path_ = directory_ + "/fd.sock";
    auto pair = SocketPair();
    EXPECT_TRUE(pair.ok());
    left_ = std::move(pair->first);
    right_ = std::move(pair->second);
  }
  ~FdSocket() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<ReceivedMessage> Receive(absl::Duration timeout = kSoon) {
    return ReceiveMessage(right_.get(), absl::MakeSpan(buffer_), timeout);
  }

  std::string directory_, path_;
  UniqueFd left_, right_;
  std::vector<char> buffer_ = std::vector<char>(kMaxMessageBytes);
};

TEST_F(FdSocket, MessagesKeepTheirBoundaries) {
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("one"), {}).ok());
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("three"), {}).ok());
  auto first = Receive();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(std::string(buffer_.data(), first->size), "one");
  auto second = Receive();
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(std::string(buffer_.data(), second->size), "three");
  EXPECT_TRUE(second->fds.empty());
  EXPECT_FALSE(second->end_of_file);
}

TEST_F(FdSocket, LargestMessageArrivesWhole) {
  std::string text(kMaxMessageBytes, 'x');
  text.back() = 'y';
  ASSERT_TRUE(SendMessage(left_.get(), Bytes(text), {}).ok());
  auto message = Receive();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(std::string(buffer_.data(), message->size), text);
}

TEST_F(FdSocket, PassesSixteenDescriptorsCloseOnExec) {
  std::vector<UniqueFd> events;
  std::vector<int> numbers;
  for (size_t i = 0; i < kMaxMessageFds; ++i) {
    events.emplace_back(eventfd(static_cast<unsigned>(i) + 1, 0));
    numbers.push_back(events.back().get());
  }
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("fds"), numbers).ok());
  auto message = Receive();
  ASSERT_TRUE(message.ok()) << message.status();
  ASSERT_EQ(message->fds.size(), kMaxMessageFds);
  for (size_t i = 0; i < kMaxMessageFds; ++i) {
    uint64_t value = 0;
    EXPECT_EQ(read(message->fds[i].get(), &value, 8), 8);
    EXPECT_EQ(value, i + 1) << "order is kept";
    EXPECT_EQ(fcntl(message->fds[i].get(), F_GETFD), FD_CLOEXEC);
  }
}

TEST_F(FdSocket, RefusesToSendOverTheLimits) {
  EXPECT_EQ(SendMessage(left_.get(), {}, {}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SendMessage(left_.get(), Bytes(std::string(kMaxMessageBytes + 1, 'x')), {}).code(),
            absl::StatusCode::kInvalidArgument);
  const std::vector<int> many(kMaxMessageFds + 1, 0);
  EXPECT_EQ(SendMessage(left_.get(), Bytes("x"), many).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FdSocket, TruncatedMessageIsAnErrorAndItsDescriptorsAreClosed) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("longer than four"), {event.get()}).ok());
  const size_t before = OpenDescriptorCount();
  char small[4];
  EXPECT_EQ(ReceiveMessage(right_.get(), absl::MakeSpan(small), kSoon).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenDescriptorCount(), before);
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("next"), {}).ok());
  EXPECT_TRUE(Receive().ok()) << "the connection stays usable";
}

// A peer that does not use SendMessage: more descriptors than we take.
TEST_F(FdSocket, TooManyDescriptorsAreAnErrorAndClosed) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC));
  constexpr size_t kCount = kMaxMessageFds + 4;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kCount)] = {};
  char byte = 'x';
  iovec data{&byte, 1};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int) * kCount);
  for (size_t i = 0; i < kCount; ++i) {
    const int fd = event.get();
    std::memcpy(CMSG_DATA(part) + i * sizeof(int), &fd, sizeof(int));
  }
  ASSERT_EQ(sendmsg(left_.get(), &header, 0), 1);
  const size_t before = OpenDescriptorCount();
  EXPECT_EQ(Receive().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OpenDescriptorCount(), before);
}

TEST_F(FdSocket, NoRoomForDescriptorsIsResourceExhausted) {
  UniqueFd event(eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("x"), {event.get(), event.get()}).ok());
  EXPECT_EQ(InChild([&] {
              const rlimit none{0, 0};
              if (setrlimit(RLIMIT_NOFILE, &none) != 0) return 2;
              return Receive().status().code() == absl::StatusCode::kResourceExhausted ? 0 : 1;
            }),
            0);
}

TEST_F(FdSocket, EndOfFileIsNotAnError) {
  ASSERT_TRUE(SendMessage(left_.get(), Bytes("last"), {}).ok());
  left_.reset();
  auto last = Receive();
  ASSERT_TRUE(last.ok());
  EXPECT_FALSE(last->end_of_file) << "what was sent before comes first";
  auto end = Receive();
  ASSERT_TRUE(end.ok());
  EXPECT_TRUE(end->end_of_file);
  EXPECT_EQ(SendMessage(right_.get(), Bytes("x"), {}).code(), absl::StatusCode::kUnavailable);
}

TEST_F(FdSocket, DeadlinesPass) {
  EXPECT_EQ(Receive(absl::ZeroDuration()).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Receive(absl::Milliseconds(2)).status().code(), absl::StatusCode::kDeadlineExceeded);
  absl::Status sent = absl::OkStatus();
  for (int i = 0; i < 10000 && sent.ok(); ++i) {
    sent = SendMessage(left_.get(), Bytes(std::string(60000, 'x')), {}, absl::Milliseconds(1));
  }
  EXPECT_EQ(sent.code(), absl::StatusCode::kDeadlineExceeded) << "the peer does not read";
}

TEST_F(FdSocket, ReceiveWaitsForALateMessage) {
  std::thread sender([&] { SendMessage(left_.get(), Bytes("late"), {}).IgnoreError(); });
  auto message = Receive();
  sender.join();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(message->size, 4u);
}

TEST_F(FdSocket, ListenConnectAcceptAndCredentials) {
  auto listener = Listen(path_, 0640);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat info {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
  auto client = Connect(path_);
  ASSERT_TRUE(client.ok()) << client.status();
  auto server = Accept(listener->get(), kSoon);
  ASSERT_TRUE(server.ok());
  auto peer = GetPeerCredentials(server->get());
  ASSERT_TRUE(peer.ok());
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, geteuid());
  EXPECT_EQ(peer->gid, getegid());
  EXPECT_EQ(Accept(listener->get(), absl::ZeroDuration()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FdSocket, ConnectWithoutAServerIsUnavailable) {
  EXPECT_EQ(Connect(path_).status().code(), absl::StatusCode::kUnavailable);
  { ASSERT_TRUE(Listen(path_, 0600).ok()); }  // its file stays
  EXPECT_EQ(Connect(path_).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(FdSocket, ReplacesAStaleSocketButNoLivingOne) {
  { ASSERT_TRUE(Listen(path_, 0600).ok()); }
  ASSERT_TRUE(std::filesystem::exists(path_)) << "a stale file is there to be replaced";
  auto living = Listen(path_, 0600);
  ASSERT_TRUE(living.ok()) << living.status();
  EXPECT_EQ(Listen(path_, 0600).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(Connect(path_).ok()) << "the living one was not touched";
}

TEST_F(FdSocket, DoesNotTouchWhatIsNoSocketOfItsKind) {
  std::ofstream(path_) << "data";
  EXPECT_EQ(Listen(path_, 0600).status().code(), absl::StatusCode::kAlreadyExists);
  std::string text;
  std::ifstream(path_) >> text;
  EXPECT_EQ(text, "data");
  std::filesystem::remove(path_);
  UniqueFd stream(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path_.data(), path_.size());
  ASSERT_EQ(bind(stream.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(stream.get(), 1), 0);
  EXPECT_FALSE(Listen(path_, 0600).ok());
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(FdSocket, PathsOverTheLimitAreNamed) {
  for (const std::string& path : {std::string(), std::string(108, 'p'), std::string("a\0b", 3)}) {
    EXPECT_EQ(Listen(path, 0600).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Connect(path).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Of many servers that start at once on a stale socket, one wins and stays reachable.
TEST_F(FdSocket, ConcurrentStartsLeaveOneServer) {
  { ASSERT_TRUE(Listen(path_, 0600).ok()); }
  std::vector<UniqueFd> winners(8);
  std::vector<std::thread> starters;
  for (UniqueFd& winner : winners) {
    starters.emplace_back([&] {
      if (auto listener = Listen(path_, 0600); listener.ok()) winner = *std::move(listener);
    });
  }
  for (std::thread& starter : starters) starter.join();
  EXPECT_EQ(std::count_if(winners.begin(), winners.end(), [](auto& w) { return bool(w); }), 1);
  EXPECT_TRUE(Connect(path_).ok());
}

}  // namespace
}  // namespace penstock
