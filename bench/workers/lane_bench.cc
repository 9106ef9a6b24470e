// What the stream lane moves between two hosts, beside a bare socket, and the ucx-tcp lane.
//
//   lane_bench --serve=HOST          serves, prints "PORT TLSPORT BAREPORT UCX", until stdin ends; UCX: a worker's address, "-" without
//   lane_bench --address=HOST:PORT --secure=HOST:PORT --bare=HOST:PORT --ucx=UCX --own=HOST    the worker: asks that server
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "bench/workers/worker.h"
#include "transport/stream/stream_lane.h"
#include "transport/stream/stream_server.h"
#include "transport/stream/tcp_socket.h"
#ifdef PENSTOCK_HAS_UCX
#include "absl/strings/escaping.h"
#include "transport/ucx/ucx_tcp_lane.h"
#include "transport/ucx/ucx_tcp_target.h"
#endif

namespace penstock::bench {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{1} << 30;
constexpr size_t kSmallBytes = 4096;
constexpr int kReaders = 64;

LaneToken Token() {
  LaneToken token;
  token.fill(1);
  return token;
}

char* WarmMemory(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

// Grant 1 is one block for everything.
class OneBlock final : public GrantTable {
 public:
  bool KnowsToken(const LaneToken& token) override { return token == Token(); }
  std::optional<LaneToken> TokenOf(const TlsIdentity&) override { return Token(); }
  absl::StatusOr<GrantedBlock> Use(const LaneToken&, uint64_t, TransferKind) override { return GrantedBlock{data_, kBlockBytes, nullptr}; }

 private:
  char* const data_ = WarmMemory(kBlockBytes);
};

void Wait(int fd, short events) {
  pollfd entry{fd, events, 0};
  (void)poll(&entry, 1, -1);
}

// All of it, or false.
bool Move(TcpSocket* socket, char* bytes, size_t count, bool receive) {
  while (count > 0) {
    const absl::StatusOr<size_t> moved = receive ? socket->Receive(bytes, count) : socket->Send(bytes, count, false);
    if (!moved.ok()) return false;
    if (*moved == 0) Wait(socket->fd(), receive ? POLLIN : POLLOUT);
    bytes += *moved;
    count -= *moved;
  }
  return true;
}

// 64 bytes in, 4 KiB out, and nothing else: what a round trip costs.
void ServeBare(int listener) {
  while (true) {
    Wait(listener, POLLIN);
    absl::StatusOr<TcpSocket> accepted = AcceptTcp(listener);
    if (!accepted.ok() || !*accepted) continue;
    std::thread([socket = *std::move(accepted)]() mutable {
      char request[64], answer[kSmallBytes] = {};
      while (Move(&socket, request, sizeof(request), true) && Move(&socket, answer, sizeof(answer), false)) {
      }
    }).detach();
  }
}

#ifdef PENSTOCK_HAS_UCX

// "-": there is none.
std::string ServeUcxTcp(const std::string& host, GrantTable* grants) {
  static std::unique_ptr<UcxTcpTarget> target;
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = OpenUcxTcp(host);
  if (!context.ok()) return "-";
  absl::StatusOr<std::unique_ptr<UcxTcpTarget>> started = UcxTcpTarget::Start(*context, grants);
  if (!started.ok()) return "-";
  target = *std::move(started);
  return absl::BytesToHexString(target->address());
}

// Null: there is none.
std::unique_ptr<Lane> NewUcxTcpLane(const std::string& peer, const std::string& own_host) {
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = peer == "-" ? absl::NotFoundError("") : OpenUcxTcp(own_host);
  if (!context.ok()) return nullptr;
  return UcxTcpLane::Create(*context, {.peer = [address = absl::HexStringToBytes(peer)] { return address; }, .token = Token()});
}

#else

std::string ServeUcxTcp(const std::string&, GrantTable*) { return "-"; }
std::unique_ptr<Lane> NewUcxTcpLane(const std::string&, const std::string&) { return nullptr; }

#endif

int Serve(const std::string& host) {
  OneBlock block;
  auto server = StreamServer::Start({.host = host, .port = 0, .grants = &block});
  auto secure = StreamServer::Start({.host = host, .port = 0, .grants = &block, .tls = true});
  auto bare = ListenTcp(host, 0);
  if (!server.ok() || !secure.ok() || !bare.ok()) {
    const absl::Status& why = !server.ok() ? server.status() : !secure.ok() ? secure.status() : bare.status();
    std::fprintf(stderr, "lane_bench: %s\n", std::string(why.message()).c_str());
    return 1;
  }
  std::thread(ServeBare, bare->get()).detach();
  std::printf("%d %d %d %s\n", (*server)->port(), (*secure)->port(), BoundPort(bare->get()).value_or(0), ServeUcxTcp(host, &block).c_str());
  std::fflush(stdout);
  while (std::fgetc(stdin) != EOF) {
  }
  (*server)->Stop();
  (*secure)->Stop();
  std::fflush(stdout);
  _exit(0);  // the detached threads wait in poll
}

class Client {
 public:
  Client(std::string address, const std::string& secure_address, std::string bare_address, std::unique_ptr<Lane> ucx_tcp)
      : address_(std::move(address)), bare_address_(std::move(bare_address)), secure_{{.address = secure_address, .token = Token(), .tls = true}},
        ucx_tcp_(std::move(ucx_tcp)) {}

  // Bytes a second.
  absl::StatusOr<double> Rate(TransferKind kind, uint64_t bytes) { return Rate(&lane_, kind, bytes); }
  absl::StatusOr<double> SecureRate(TransferKind kind, uint64_t bytes) { return Rate(&secure_, kind, bytes); }
  absl::StatusOr<double> UcxTcpRate(TransferKind kind, uint64_t bytes) {
    if (ucx_tcp_ == nullptr) return absl::NotFoundError("no ucx-tcp");
    return Rate(ucx_tcp_.get(), kind, bytes);
  }
  absl::StatusOr<double> Rate(Lane* lane, TransferKind kind, uint64_t bytes) {
    const int rounds = static_cast<int>(std::max<uint64_t>(1, (uint64_t{256} << 20) / bytes));
    const auto seconds = SecondsOnce([&]() -> absl::Status {
      for (int i = 0; i < rounds; ++i) {
        if (absl::Status s = Run(lane, kind, bytes, memory_); !s.ok()) return s;
      }
      return absl::OkStatus();
    });
    if (!seconds.ok()) return seconds.status();
    return static_cast<double>(bytes) * rounds / *seconds;
  }
  absl::StatusOr<double> SmallRead() {
    return NanosecondsEach([&](uint64_t) { return Run(&lane_, TransferKind::kRead, kSmallBytes, memory_); }, 0.3, 64);
  }
  absl::StatusOr<double> BareRoundTrip() {
    if (!bare_) {
      absl::StatusOr<TcpSocket> socket = TcpSocket::BeginConnect(bare_address_);
      if (!socket.ok()) return socket.status();
      bare_ = *std::move(socket);
      Wait(bare_.fd(), POLLOUT);
    }
    return NanosecondsEach(
        [&](uint64_t) {
          char request[64] = {};
          return Move(&bare_, request, sizeof(request), false) && Move(&bare_, memory_, kSmallBytes, true)
                     ? absl::OkStatus()
                     : absl::UnavailableError("the bare socket is gone");
        },
        0.3, 64);
  }
  // What the slowest of many readers got, in means.
  absl::StatusOr<double> Fairness() {
    constexpr uint64_t kBytes = 4 << 20;
    std::vector<uint64_t> moved(kReaders, 0);
    std::vector<std::thread> threads;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kReaders; ++i) {
      threads.emplace_back([&, i] {
        StreamLane lane({.address = address_, .token = Token()});
        std::vector<char> memory(kBytes);
        while (SecondsSince(start) < 2 && Run(&lane, TransferKind::kRead, kBytes, memory.data()).ok()) moved[i] += kBytes;
      });
    }
    uint64_t total = 0;
    for (std::thread& thread : threads) thread.join();
    for (uint64_t bytes : moved) total += bytes;
    return static_cast<double>(*std::min_element(moved.begin(), moved.end())) * kReaders / static_cast<double>(total);
  }

 private:
  static absl::Status Run(Lane* lane, TransferKind kind, uint64_t bytes, char* memory) {
    Transfer transfer{.kind = kind, .grant = 1, .runs = ByteRuns::Whole(bytes), .memory = {memory, bytes}};
    lane->Run(absl::MakeSpan(&transfer, 1), {.timeout = absl::Seconds(60)});
    return transfer.status;
  }

  const std::string address_, bare_address_;
  StreamLane lane_{{.address = address_, .token = Token()}};
  StreamLane secure_;
  const std::unique_ptr<Lane> ucx_tcp_;
  TcpSocket bare_;
  char* const memory_ = WarmMemory(kBlockBytes);
};

int Main(int argc, char** argv) {
  if (const std::string host = FlagValue(argc, argv, "serve"); !host.empty()) return Serve(host);
  Client client(FlagValue(argc, argv, "address"), FlagValue(argc, argv, "secure"), FlagValue(argc, argv, "bare"),
                NewUcxTcpLane(FlagValue(argc, argv, "ucx"), FlagValue(argc, argv, "own")));
  Worker worker;
  for (const auto& [name, bytes] : {std::pair<const char*, uint64_t>{"64 MiB", 64 << 20}, {"1 GiB", kBlockBytes}}) {
    worker.Add(std::string("read ") + name, [&client, bytes = bytes] { return client.Rate(TransferKind::kRead, bytes); });
    worker.Add(std::string("write ") + name, [&client, bytes = bytes] { return client.Rate(TransferKind::kWrite, bytes); });
    worker.Add(std::string("read by TLS ") + name, [&client, bytes = bytes] { return client.SecureRate(TransferKind::kRead, bytes); });
    worker.Add(std::string("read by ucx-tcp ") + name, [&client, bytes = bytes] { return client.UcxTcpRate(TransferKind::kRead, bytes); });
    worker.Add(std::string("write by ucx-tcp ") + name, [&client, bytes = bytes] { return client.UcxTcpRate(TransferKind::kWrite, bytes); });
    worker.Add(std::string("write by TLS ") + name, [&client, bytes = bytes] { return client.SecureRate(TransferKind::kWrite, bytes); });
  }
  worker.Add("read 4 KiB", [&client] { return client.SmallRead(); });
  worker.Add("bare round trip", [&client] { return client.BareRoundTrip(); });
  worker.Add("slowest of 64 readers", [&client] { return client.Fairness(); });
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
