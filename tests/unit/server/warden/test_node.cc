// A node for tests of the warden: answers one command a connection, in words.
//
// NodeConfig::host tells it how to begin: "" serves, "exit N" and "abort" end before serving.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/penstockd/config.h"
#include "server/warden/warden_client.h"
#include "transport/fd_socket/fd_socket.h"
#include "transport/segment/memfd.h"

namespace penstock::warden {
namespace {

class TestNode {
 public:
  explicit TestNode(NodeContext* context) : context_(*context) {
    for (Segment& segment : context_.segments) {
      const uint32_t id = segment.id;
      inherited_ids_ += absl::StrCat(id, " ");
      segments_.emplace(id, std::move(segment));
    }
  }

  int Serve() {
    for (;;) {
      auto peer = Accept(context_.fd_listener);
      if (!peer.ok()) return 9;
      char buffer[1024];
      auto message = ReceiveMessage(peer->get(), {buffer, sizeof(buffer)});
      if (!message.ok() || message->end_of_file) continue;
      reply_fd_ = -1;
      fds_ = std::move(message->fds);
      std::istringstream words(std::string(buffer, message->size));
      const std::string reply = Do(words);
      const int one[] = {reply_fd_};
      SendMessage(peer->get(), reply, absl::MakeSpan(one, reply_fd_ >= 0 ? 1 : 0)).IgnoreError();
      fds_.clear();
    }
  }

 private:
  std::string Do(std::istringstream& words) {
    std::string command;
    words >> command;
    if (command == "pid") return absl::StrCat(getpid(), " ", context_.warden_pid);
    if (command == "generation") return absl::StrCat(context_.generation);
    if (command == "ready_fd") return absl::StrCat(context_.ready_fd);
    if (command == "exit") exit_(words);
    if (command == "abort") abort();
    if (command == "ignore_term") return signal(SIGTERM, SIG_IGN) == SIG_ERR ? "no" : "ok";
    if (command == "scratch") return absl::StrCat(++*static_cast<uint32_t*>(context_.scratch));
    if (command == "inherited") return inherited_ids_ + ".";
    if (command == "stress") return Stress(words);
    if (command == "sessions") return Sessions();
    if (command == "restart") return context_.warden->RestartNode().ToString();
    if (command == "keep" || command == "addfd" || command == "dropsession" || command == "say") {
      return Session(command, words);
    }
    return OnSegment(command, words);
  }

  [[noreturn]] void exit_(std::istringstream& words) {
    int code = 0;
    words >> code;
    _exit(code);
  }

  // create KIND BYTES HUGE POPULATE
  std::string Create(std::istringstream& words) {
    uint32_t kind = 0;
    SegmentRequest request{};
    words >> kind >> request.bytes >> request.huge_pages >> request.populate;
    request.kind = static_cast<layout::SegmentKind>(kind);
    auto segment = context_.warden->CreateSegment(request);
    if (!segment.ok()) return segment.status().ToString();
    const uint32_t id = segment->id;
    segments_[id] = *std::move(segment);
    return absl::StrCat(id);
  }

  std::string OnSegment(const std::string& command, std::istringstream& words) {
    if (command == "create") return Create(words);
    uint32_t id = 0;
    words >> id;
    if (command == "mark") return context_.warden->MarkSealed(id).ToString();
    if (command == "drop") return context_.warden->DropSegment(id).ToString();
    const auto it = segments_.find(id);
    if (it == segments_.end()) return "no such segment";
    Segment& segment = it->second;
    auto* value = static_cast<std::atomic<uint64_t>*>(segment.address);
    if (command == "write") {
      uint64_t number = 0;
      words >> number;
      value[0] = number;
      value[segment.bytes / 8 - 1] = number;
      return "ok";
    }
    if (command == "read")
      return absl::StrCat(value[0].load(), " ", value[segment.bytes / 8 - 1].load());
    if (command == "seal") return SealFutureWrite(segment.fd.get()).ToString();
    if (command == "about") {
      return absl::StrCat(static_cast<uint32_t>(segment.kind), " ", segment.bytes, " ",
                          segment.page_kind, " ", segment.sealed ? "sealed" : "open");
    }
    if (command == "fd") {
      reply_fd_ = segment.fd.get();
      return "ok";
    }
    if (command == "map") {  // what an exec'ed node would have to do
      void* address = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd.get(), 0);
      return address == MAP_FAILED ? strerror(errno) : "mapped";
    }
    return "unknown command " + command;
  }

  std::string Session(const std::string& command, std::istringstream& words) {
    uint64_t id = 0;
    std::string text;
    words >> id >> text;
    if (command == "dropsession") return context_.warden->DropSession(id).ToString();
    if (command == "addfd") return context_.warden->AddSessionFd(id, fds_.at(0).get()).ToString();
    if (command == "keep") {  // keep ID BLOB COPIES: each descriptor that came, so many times
      size_t copies = 1;
      words >> copies;
      std::vector<int> fds;
      for (size_t i = 0; i < copies; ++i) {
        for (const UniqueFd& fd : fds_) fds.push_back(fd.get());
      }
      return context_.warden->KeepSession(id, text, fds).ToString();
    }
    for (const InheritedSession& session : context_.sessions) {  // say ID TEXT, by every descriptor
      if (session.id != id) continue;
      for (const UniqueFd& fd : session.fds) {
        if (write(fd.get(), text.data(), text.size()) < 0) return strerror(errno);
      }
      return absl::StrCat(session.fds.size());
    }
    return "no such session";
  }

  std::string Sessions() {
    std::string text;
    for (const InheritedSession& session : context_.sessions) {
      absl::StrAppend(&text, session.id, ":", session.blob, ":", session.fds.size(), " ");
    }
    return text + ".";
  }

  // stress THREADS ROUNDS: each makes, marks and drops segments of its own size; counts mix-ups.
  std::string Stress(std::istringstream& words) {
    int threads = 0, rounds = 0;
    words >> threads >> rounds;
    std::atomic<int> wrong{0};
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t) {
      running.emplace_back([&, t] {
        for (int i = 0; i < rounds; ++i) {
          const uint64_t bytes = 4096 * (t + 1);
          auto segment = context_.warden->CreateSegment(
              {.kind = layout::SegmentKind::kArena, .bytes = bytes, .populate = i % 50 == 0});
          if (!segment.ok() || segment->bytes != bytes) {
            ++wrong;
            continue;
          }
          munmap(segment->address, segment->bytes);
          if (!context_.warden->MarkSealed(segment->id).ok()) ++wrong;
          if (!context_.warden->DropSegment(segment->id).ok()) ++wrong;
        }
      });
    }
    for (std::thread& thread : running) thread.join();
    return absl::StrCat(wrong.load());
  }

  NodeContext& context_;
  std::map<uint32_t, Segment> segments_;
  std::string inherited_ids_;
  std::vector<UniqueFd> fds_;
  int reply_fd_ = -1;
};

}  // namespace
}  // namespace penstock::warden

extern "C" int penstock_node_main(penstock::warden::NodeContext* context) {
  signal(
      SIGTERM, +[](int) { _exit(0); });
  std::istringstream begin(context->config->host);
  std::string word;
  int code = 0;
  begin >> word >> code;
  if (word == "exit") return code;
  if (word == "abort") abort();
  penstock::warden::TestNode node(context);
  if (context->ready_fd >= 0) {
    const std::string line = absl::StrCat("{\"node\":", getpid(), "}\n");
    if (write(context->ready_fd, line.data(), line.size()) < 0) return 8;
    close(context->ready_fd);
  }
  return node.Serve();
}
