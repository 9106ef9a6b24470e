// The warden with real processes: it runs in a child of the test, its node is test_node.cc.
#include "server/warden/warden.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "proto/layout/fd_messages.h"
#include "server/penstockd/config.h"
#include "transport/fd_socket/fd_socket.h"

namespace penstock::warden {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr int kArena = static_cast<int>(layout::SegmentKind::kArena);
constexpr int kExtent = static_cast<int>(layout::SegmentKind::kExtent);
constexpr uint64_t kMiB = uint64_t{1} << 20;

class WardenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/penstock-warden-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    directory_ = pattern;
    auto listener = Listen(Path(), 0600);
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }

  void TearDown() override {
    if (warden_ > 0) {
      kill(warden_, SIGTERM);
      WaitForWarden();
    }
    std::filesystem::remove_all(directory_);
  }

  std::string Path() const { return directory_ + "/fd.sock"; }

  void Start(const std::string& begin = "", absl::Duration stop_timeout = absl::Seconds(10)) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    ready_.reset(ends[0]);
    warden_ = fork();
    if (warden_ == 0) {
      server::NodeConfig config;
      config.host = begin;
      WardenOptions options;
      options.config = &config;
      options.node_library = library_;
      options.fd_listener = listener_.get();
      options.ready_fd = ends[1];
      options.stop_timeout = stop_timeout;
      options.exit_with_parent = exit_with_parent_;
      ready_.reset();
      _exit(RunWarden(options));
    }
    close(ends[1]);
  }

  // Exit code of the warden, or -signal.
  int WaitForWarden() {
    int status = 0;
    waitpid(warden_, &status, 0);
    warden_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  // Asks whichever node takes the connection.
  absl::StatusOr<ReceivedMessage> TryAsk(const std::string& command, absl::Span<const int> fds,
                                         std::string* answer) {
    auto node = Connect(Path());
    if (!node.ok()) return node.status();
    absl::Status sent = SendMessage(node->get(), command, fds, kPatience);
    if (!sent.ok()) return sent;
    char buffer[65536];
    auto reply = ReceiveMessage(node->get(), {buffer, sizeof(buffer)}, kPatience);
    if (reply.ok() && reply->end_of_file) return absl::UnavailableError("the node died");
    if (reply.ok()) answer->assign(buffer, reply->size);
    return reply;
  }

  std::string Ask(const std::string& command, absl::Span<const int> fds = {}) {
    std::string answer;
    const auto reply = TryAsk(command, fds, &answer);
    return reply.ok() ? answer : reply.status().ToString();
  }

  UniqueFd AskForFd(const std::string& command) {
    std::string answer;
    auto reply = TryAsk(command, {}, &answer);
    if (!reply.ok() || reply->fds.size() != 1) return UniqueFd();
    return std::move(reply->fds[0]);
  }

  pid_t NodePid() {
    int pid = 0;
    const std::vector<std::string> words = absl::StrSplit(Ask("pid"), ' ');
    EXPECT_TRUE(absl::SimpleAtoi(words[0], &pid)) << words[0];
    return pid;
  }

  // A dying node may still take a connection: asks until the generation answers.
  void WaitForGeneration(int wanted) {
    const absl::Time deadline = absl::Now() + kPatience;
    int generation = 0;
    while (generation < wanted && absl::Now() < deadline) {
      if (!absl::SimpleAtoi(Ask("generation"), &generation)) generation = 0;
    }
    ASSERT_EQ(generation, wanted);
  }

  void KillNode(int signal_number, int next_generation) {
    ASSERT_EQ(kill(NodePid(), signal_number), 0);
    WaitForGeneration(next_generation);
  }

  std::string ReadReadyLine() {
    std::string text;
    char c;
    while (read(ready_.get(), &c, 1) == 1) text += c;
    return text;
  }

  std::string directory_;
  std::string library_ = TEST_NODE_LIBRARY;
  bool exit_with_parent_ = false;
  UniqueFd listener_;
  UniqueFd ready_;
  pid_t warden_ = -1;
};

TEST_F(WardenTest, NodeFindsItsMemoryWritableAfterEveryKindOfDeath) {
  Start();
  const std::string id = Ask(absl::StrCat("create ", kArena, " ", 4 * kMiB, " 1 1"));
  ASSERT_EQ(id, "1");
  EXPECT_EQ(Ask("write 1 41"), "ok");
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("inherited"), "1 .");
  EXPECT_EQ(Ask("read 1"), "41 41");
  EXPECT_EQ(Ask("write 1 42"), "ok");
  EXPECT_THAT(Ask("about 1"), StartsWith(absl::StrCat(kArena, " ", 4 * kMiB)));
  EXPECT_THAT(Ask("about 1"), HasSubstr("sealed"));
  KillNode(SIGSEGV, 3);
  EXPECT_EQ(Ask("read 1"), "42 42");
  Ask("exit 3");
  WaitForGeneration(4);
  EXPECT_EQ(Ask("read 1"), "42 42");
  EXPECT_EQ(Ask("scratch"), "1");
  KillNode(SIGABRT, 5);
  EXPECT_EQ(Ask("scratch"), "2");
}

TEST_F(WardenTest, SealedMemoryCannotBeMappedForWritingByAnyOtherProcess) {
  Start();
  ASSERT_EQ(Ask(absl::StrCat("create ", kArena, " 8192 0 1")), "1");
  EXPECT_EQ(Ask("write 1 7"), "ok");
  EXPECT_EQ(Ask("map 1"), "Operation not permitted") << "not even by the node itself, anew";
  const UniqueFd fd = AskForFd("fd 1");
  ASSERT_TRUE(fd);
  const auto attack = [](int target) {
    EXPECT_EQ(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, target, 0), MAP_FAILED);
    EXPECT_LT(pwrite(target, "x", 1, 0), 0);
    EXPECT_LT(ftruncate(target, 0), 0);
    EXPECT_LT(fallocate(target, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  };
  attack(fd.get());
  // The same file through /proc of each process that has it open, opened anew for writing.
  const std::vector<std::string> pids = absl::StrSplit(Ask("pid"), ' ');
  int reopened = 0;
  for (const std::string& pid : pids) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + pid + "/fd")) {
      std::error_code error;
      const std::string target = std::filesystem::read_symlink(entry.path(), error);
      if (target.find("penstock-arena-1") == std::string::npos) continue;
      const UniqueFd again(open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
      if (again) attack(again.get());
      ++reopened;
    }
  }
  EXPECT_EQ(reopened, 2) << "warden and node each have it open once";
  void* readable = mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(readable, MAP_FAILED);
  EXPECT_NE(mprotect(readable, 8192, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(*static_cast<uint64_t*>(readable), 7u);
  munmap(readable, 8192);
}

TEST_F(WardenTest, ExtentIsSealedWhenItsNodeSaysSoAndANewNodeKnows) {
  Start();
  ASSERT_EQ(Ask(absl::StrCat("create ", kExtent, " 4096 0 0")), "1");
  ASSERT_EQ(Ask(absl::StrCat("create ", kExtent, " 4096 0 0")), "2");
  EXPECT_THAT(Ask("about 1"), HasSubstr("open"));
  EXPECT_THAT(Ask("mark 1"), StartsWith("FAILED_PRECONDITION"));
  EXPECT_EQ(Ask("seal 1"), "OK");  // and dies before it can mark it
  KillNode(SIGKILL, 2);
  EXPECT_THAT(Ask("about 1"), HasSubstr("sealed"));
  EXPECT_THAT(Ask("about 2"), HasSubstr("open"));
  EXPECT_EQ(Ask("mark 1"), "OK");
}

TEST_F(WardenTest, DroppedSegmentIsGoneAndItsIdIsNotUsedAgain) {
  Start();
  ASSERT_EQ(Ask(absl::StrCat("create ", kArena, " 4096 0 0")), "1");
  EXPECT_EQ(Ask("drop 1"), "OK");
  EXPECT_THAT(Ask("drop 1"), StartsWith("NOT_FOUND"));
  EXPECT_EQ(Ask(absl::StrCat("create ", kArena, " 4096 0 0")), "2");
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("inherited"), "2 .");
  EXPECT_EQ(Ask(absl::StrCat("create ", kArena, " 4096 0 0")), "3");
}

TEST_F(WardenTest, ImpossibleSegmentIsAnErrorAndNothingElse) {
  Start();
  EXPECT_THAT(Ask("create 4 0 0 0"), StartsWith("INVALID_ARGUMENT"));
  EXPECT_THAT(Ask("create 12 4096 0 0"), StartsWith("INVALID_ARGUMENT"));
  EXPECT_THAT(Ask(absl::StrCat("create 4 ", uint64_t{1} << 47, " 0 0")),
              StartsWith("INVALID_ARGUMENT"));
  EXPECT_EQ(Ask("generation"), "1");
  EXPECT_EQ(Ask(absl::StrCat("create ", kArena, " 4096 0 0")), "1");
}

TEST_F(WardenTest, SessionSocketsOutliveTheNode) {
  Start();
  auto first = SocketPair();
  auto second = SocketPair();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(Ask("keep 77 alice 1", {first->first.get()}), "OK");
  EXPECT_EQ(Ask("addfd 77", {second->first.get()}), "OK");
  EXPECT_THAT(Ask("addfd 78", {second->first.get()}), StartsWith("NOT_FOUND"));
  first->first.reset();
  second->first.reset();
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("sessions"), "77:alice:2 .");
  EXPECT_EQ(Ask("say 77 hello"), "2");
  for (const auto* pair : {&*first, &*second}) {
    char text[8];
    auto message = ReceiveMessage(pair->second.get(), {text, sizeof(text)}, kPatience);
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(std::string(text, message->size), "hello");
  }
}

TEST_F(WardenTest, DroppedSessionIsEndOfFileForItsClientOnceTheNodeHasClosedItToo) {
  Start();
  auto ends = SocketPair();
  ASSERT_TRUE(ends.ok());
  EXPECT_EQ(Ask("keep 5 bob 1", {ends->first.get()}), "OK");
  ends->first.reset();
  EXPECT_EQ(Ask("dropsession 5"), "OK");
  EXPECT_THAT(Ask("dropsession 5"), StartsWith("NOT_FOUND"));
  char text[8];
  auto message = ReceiveMessage(ends->second.get(), {text, sizeof(text)}, kPatience);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_TRUE(message->end_of_file);
}

TEST_F(WardenTest, SessionKeepsAsManyDescriptorsAsPromisedAndIsReplacedWhole) {
  Start();
  auto ends = SocketPair();
  ASSERT_TRUE(ends.ok());
  EXPECT_EQ(Ask("keep 5 first 32", {ends->first.get()}), "OK");
  EXPECT_THAT(Ask("keep 6 toomany 33", {ends->first.get()}), StartsWith("INVALID_ARGUMENT"));
  EXPECT_EQ(Ask("keep 7 old 20", {ends->first.get()}), "OK");
  EXPECT_EQ(Ask("keep 7 new 1", {ends->first.get()}), "OK");
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("sessions"), "5:first:32 7:new:1 .");
}

TEST_F(WardenTest, RequestsOfManyThreadsEachGetTheirOwnAnswer) {
  Start();
  EXPECT_EQ(Ask("stress 6 100"), "0");
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("inherited"), ".");
}

TEST_F(WardenTest, ExitCodeZeroOfTheNodeEndsTheWarden) {
  Start();
  NodePid();
  Ask("exit 0");
  EXPECT_EQ(WaitForWarden(), 0);
}

TEST_F(WardenTest, TerminationIsPassedOnAndEndsGracefully) {
  Start();
  const pid_t node = NodePid();
  kill(warden_, SIGTERM);
  EXPECT_EQ(WaitForWarden(), 0);
  EXPECT_NE(kill(node, 0), 0);
}

TEST_F(WardenTest, NodeThatDoesNotStopIsKilled) {
  Start("", absl::Milliseconds(200));
  const pid_t node = NodePid();
  ASSERT_EQ(Ask("ignore_term"), "ok");
  kill(warden_, SIGTERM);
  EXPECT_EQ(WaitForWarden(), 1);
  EXPECT_NE(kill(node, 0), 0);
}

TEST_F(WardenTest, NodeDiesWithItsWarden) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // so that the orphan is ours to wait for
  Start();
  const pid_t node = NodePid();
  kill(warden_, SIGKILL);
  EXPECT_EQ(WaitForWarden(), -SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(node, &status, 0), node);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_F(WardenTest, StopsWhenItsParentEndsIfAskedTo) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  exit_with_parent_ = true;
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    Start();
    if (write(ends[1], &warden_, sizeof(warden_)) < 0) _exit(1);
    for (;;) pause();
  }
  ASSERT_EQ(read(ends[0], &warden_, sizeof(warden_)), static_cast<ssize_t>(sizeof(warden_)));
  close(ends[0]);
  close(ends[1]);
  EXPECT_GT(NodePid(), 0);
  kill(parent, SIGKILL);
  ASSERT_EQ(waitpid(parent, nullptr, 0), parent);
  EXPECT_EQ(WaitForWarden(), 0);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST_F(WardenTest, InterruptCountsThoughItWasIgnoredAtTheStart) {
  const auto before = signal(SIGINT, SIG_IGN);  // what a script's "penstockd &" starts with
  Start();
  signal(SIGINT, before);
  NodePid();
  kill(warden_, SIGINT);
  EXPECT_EQ(WaitForWarden(), 0);
}

TEST_F(WardenTest, ReadyLineIsToldOnceAndEndsTheStream) {
  Start();
  EXPECT_THAT(ReadReadyLine(), StartsWith("{\"node\":"));
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("ready_fd"), "-1");
}

TEST_F(WardenTest, NodeThatCannotStartEndsTheWardenWithItsExitCode) {
  Start("exit 7");
  EXPECT_EQ(ReadReadyLine(), "");
  EXPECT_EQ(WaitForWarden(), 7);
}

TEST_F(WardenTest, NodeThatCrashesBeforeItServesIsTriedSomeTimesOnly) {
  Start("abort");
  EXPECT_EQ(WaitForWarden(), 1);
}

TEST_F(WardenTest, MissingLibraryIsAnExitCode) {
  library_ = "/nonexistent/libpenstock_node.so";
  Start();
  EXPECT_EQ(WaitForWarden(), 70);
}

TEST_F(WardenTest, NodeThatDiesAgainAndAgainIsStartedMoreSlowlyButStarted) {
  Start();
  for (int generation = 1; generation <= 7; ++generation) KillNode(SIGKILL, generation + 1);
  EXPECT_EQ(Ask("generation"), "8");
}

TEST_F(WardenTest, NodeThatAsksForItIsFollowedByTheNextOneWithTheSameMemory) {
  Start();
  ASSERT_EQ(Ask(absl::StrCat("create ", kArena, " 4096 0 0")), "1");
  EXPECT_EQ(Ask("write 1 5"), "ok");
  EXPECT_EQ(Ask("restart"), "OK");
  EXPECT_EQ(Ask("generation"), "1") << "it ends when it wants to";
  Ask("exit 0");
  WaitForGeneration(2);
  EXPECT_EQ(Ask("read 1"), "5 5");
  Ask("exit 0");  // this one was not asked for
  EXPECT_EQ(WaitForWarden(), 0);
}

TEST_F(WardenTest, HoweverANodeEndsThatWasGrantedARestartTheNextOneIsStarted) {
  Start();
  EXPECT_EQ(Ask("restart"), "OK");
  KillNode(SIGKILL, 2);
  EXPECT_EQ(Ask("restart"), "OK");
  Ask("exit 9");
  WaitForGeneration(3);
}

TEST_F(WardenTest, NodeThatWasGrantedARestartAndDoesNotEndIsKilled) {
  Start("", absl::Milliseconds(200));
  EXPECT_EQ(Ask("restart"), "OK");
  WaitForGeneration(2);
  EXPECT_EQ(Ask("generation"), "2");
}

TEST_F(WardenTest, TerminationWhileANodeMakesRoomEndsAll) {
  Start();
  EXPECT_EQ(Ask("restart"), "OK");
  kill(warden_, SIGTERM);
  EXPECT_EQ(WaitForWarden(), 0);
}

TEST_F(WardenTest, LibraryThatCouldNotTakeOverIsRefusedAndTheNodeGoesOn) {
  library_ = directory_ + "/node.so";
  std::filesystem::copy_file(TEST_NODE_LIBRARY, library_);
  Start();
  const pid_t node = NodePid();
  const auto replace = [this](const std::string& by) { std::filesystem::rename(by, library_); };
  const std::string next = directory_ + "/next.so";
  std::filesystem::copy_file(OTHER_LAYOUT_LIBRARY, next);
  replace(next);
  EXPECT_THAT(Ask("restart"), AllOf(StartsWith("FAILED_PRECONDITION"), HasSubstr("memory of layout"), HasSubstr("stop penstockd")));
  std::ofstream(next) << "no library";
  replace(next);
  EXPECT_THAT(Ask("restart"), AllOf(StartsWith("FAILED_PRECONDITION"), HasSubstr("node.so")));
  std::filesystem::remove(library_);
  EXPECT_THAT(Ask("restart"), StartsWith("FAILED_PRECONDITION"));
  EXPECT_EQ(NodePid(), node);
  std::filesystem::copy_file(TEST_NODE_LIBRARY, next);
  replace(next);
  EXPECT_EQ(Ask("restart"), "OK");
  Ask("exit 0");
  WaitForGeneration(2);
}

}  // namespace
}  // namespace penstock::warden
