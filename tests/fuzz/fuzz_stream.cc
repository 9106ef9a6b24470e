// The ends of a stream connection, each against a peer that sends anything: server, reader of blocks, reader of steps. The
// first byte chooses the end.
//
// Found are crashes, sanitizer reports, a write to memory that was not granted or asked for, a block that stays in use,
// and a server that does not answer a good request after refused ones.
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz_check.h"
#include "tests/unit/transport/grants_for_test.h"
#include "tests/unit/transport/steps_for_test.h"
#include "transport/stream/client_channel.h"
#include "transport/stream/server_connection.h"
#include "transport/stream/step_reader.h"

namespace penstock::stream {
namespace {

struct Pair {
  Pair() {
    int fds[2];
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    ours = UniqueFd(fds[0]);
    theirs = TcpSocket(UniqueFd(fds[1]));
  }
  // What the tested end has sent so far.
  std::string Read() const {
    std::string all;
    char buffer[8192];
    for (ssize_t n; (n = recv(ours.get(), buffer, sizeof(buffer), 0)) > 0;) all.append(buffer, static_cast<size_t>(n));
    return all;
  }
  UniqueFd ours;
  TcpSocket theirs;
};

constexpr size_t kBlockBytes = 5000;
constexpr uint64_t kGrowing = 5;  // the grant of a block that grows; with long runs
constexpr size_t kTimes = 14;     // as long as the others

class BlockThatGrows final : public GrowingBlock {
 public:
  absl::StatusOr<uint64_t> Ready(uint64_t offset) override {
    if (offset < there) return there - offset;
    if (fails && there > kBlockBytes) return absl::UnavailableError("no more will come");
    return 0;
  }
  void Grow() { there = std::min(there + kBlockBytes / 3, data.size()); }

  std::vector<char> data = std::vector<char>(kTimes * kBlockBytes, 'g');
  size_t there = 0;
  bool fails = false;
};

// Requests that pass the first checks: the bytes choose within what makes sense.
std::string Plausible(const uint8_t* bytes, size_t size) {
  std::string out;
  for (size_t at = 0; at + sizeof(StreamRequest) <= size;) {
    StreamRequest request;
    std::memcpy(&request, bytes + at, sizeof(request));
    at += sizeof(request);
    const bool wild = request.zero[0] % 4 == 3;
    request.request_id |= 1;
    request.kind = static_cast<uint8_t>(1 + request.kind % 3);
    request.dim_count %= 4;
    std::memset(request.zero, 0, sizeof(request.zero));
    request.grant %= kGrowing + 1;
    for (uint64_t* field : {&request.offset, &request.run_bytes, &request.skip, &request.length}) {
      if (!wild) *field %= kBlockBytes;
    }
    if (request.kind == 2) request.length %= 4 * kBlockBytes;  // a payload that comes to an end
    if (request.kind == 1 && request.grant == kGrowing && !wild) {
      request.run_bytes *= kTimes;
      request.length *= kTimes;
    }
    if (request.kind == kAwaitStep) {
      request.dim_count = 0;
      request.run_bytes = request.skip = request.length = 0;
      request.offset %= wild ? kMaxStep : 8;
    }
    out.append(reinterpret_cast<const char*>(&request), sizeof(request));
    for (int i = 0; i < request.dim_count; ++i) {
      RunDim dim{request.offset % 7, wild ? request.skip : request.run_bytes % 1000};
      out.append(reinterpret_cast<const char*>(&dim), sizeof(dim));
    }
    if (request.kind == 2) out.append(request.length, 'w');
  }
  return out;
}

void Server(const uint8_t* bytes, size_t size) {
  const LaneToken token = GrantsForTest::Token(1);
  GrantsForTest grants;
  grants.AddToken(token);
  const std::vector<char> block(kBlockBytes, 'r');
  const uint64_t read_only = grants.Add(token, block);
  grants.Add(token, block, /*writable=*/true);
  const uint64_t foreign = grants.Add(GrantsForTest::Token(2), block, /*writable=*/true);
  const auto steps = std::make_shared<StepsForTest>(size > 1 ? bytes[1] * 100 : 0);
  for (uint64_t seq : {1, 2, 5}) steps->Put(seq, 's');
  if (size > 2 && bytes[2] % 4 == 1) steps->TearAll(true);
  if (size > 2 && bytes[2] % 4 >= 2) steps->End(bytes[2] % 4 == 2 ? StepSource::State::kClosed : StepSource::State::kReleased);
  grants.AddSteps(token, steps);
  const auto growing = std::make_shared<BlockThatGrows>();
  growing->fails = size > 3 && bytes[3] % 4 == 3;
  FUZZ_CHECK(grants.AddGrowing(token, growing->data.data(), growing->data.size(), growing) == kGrowing);
  std::string input;
  const uint8_t how = size > 0 ? bytes[0] : 0;
  const bool plausible = how % 4 != 0;
  const bool tls = how % 16 == 9;  // nothing of this is a handshake that knows the key
  if (how % 8 != 7) {
    StreamHello hello{.magic = kHelloMagic, .version = kProtocolVersion, .reserved = 0, .token = {}, .zero = {}};
    std::memcpy(hello.token, token.data(), token.size());
    input.append(reinterpret_cast<const char*>(&hello), sizeof(hello));
  }
  input += plausible ? Plausible(bytes, size) : std::string(reinterpret_cast<const char*>(bytes), size);
  const StreamRequest good{.request_id = 777, .kind = 1, .dim_count = 0, .zero = {}, .grant = read_only, .offset = 0, .run_bytes = 10, .skip = 0, .length = 10};
  if (plausible) input.append(reinterpret_cast<const char*>(&good), sizeof(good));
  {
    Pair pair;
    ServerCounters counters;
    if (tls) FUZZ_CHECK(pair.theirs.UseTlsAsServer(&grants).ok());
    ServerConnection connection(std::move(pair.theirs), &grants, &counters);
    std::string answers;
    size_t sent = 0;
    for (int steps = 0; steps < 100000; ++steps) {
      if (sent < input.size()) {
        const size_t piece = std::min<size_t>(input.size() - sent, how % 3 == 0 ? 1 + how % 61 : 50000);
        const ssize_t n = send(pair.ours.get(), input.data() + sent, piece, MSG_NOSIGNAL);
        if (n > 0) sent += static_cast<size_t>(n);
      }
      const ServerConnection::Next next = connection.Step();
      answers += pair.Read();
      if (next == ServerConnection::Next::kGrowing) {
        FUZZ_CHECK(connection.follows() && !connection.IsDue());
        growing->Grow();
      }
      if (next == ServerConnection::Next::kClosed || (next == ServerConnection::Next::kReadable && sent == input.size())) break;
    }
    if (tls) FUZZ_CHECK(!connection.known());
    if (plausible && !tls && how % 8 != 7 && !growing->fails) {  // steps may come after it
      const StreamAnswer answer{777, 0, 0, 10};
      FUZZ_CHECK(answers.find(std::string(reinterpret_cast<const char*>(&answer), sizeof(answer)) + "rrrrrrrrrr") != std::string::npos);
    }
    FUZZ_CHECK(grants.Bytes(read_only) == block);
    FUZZ_CHECK(grants.Bytes(foreign) == block);
    (void)connection.IsDue();
  }
  FUZZ_CHECK(grants.uses() == 0 && !steps->claimed());
  FUZZ_CHECK(growing.use_count() == 2);  // here and in the table
}

void Client(const uint8_t* bytes, size_t size) {
  constexpr size_t kGuard = 64;
  Pair pair;
  std::vector<std::vector<char>> memory;
  std::vector<Transfer> transfers;
  for (const size_t length : {100, 0, 40000, 70000}) memory.emplace_back(length + 2 * kGuard, 'g');
  for (auto& m : memory) transfers.push_back({.grant = 1, .runs = ByteRuns::Whole(m.size() - 2 * kGuard), .memory = absl::MakeSpan(m).subspan(kGuard, m.size() - 2 * kGuard)});
  transfers.back().kind = TransferKind::kWrite;
  const auto channel = ClientChannel::Over(std::move(pair.theirs), GrantsForTest::Token(1));
  for (Transfer& transfer : transfers) channel->Submit({&transfer, 0, transfer.memory.size()});
  std::string input;
  StreamAnswer answer{0, 0, 0, 0};
  if (size > 0 && bytes[0] % 4 != 2) {  // answers of the right form, each followed by what the bytes say
    input.append(reinterpret_cast<const char*>(&answer), sizeof(answer));
    for (size_t i = 0; i < transfers.size() && i < size; ++i) {
      answer = {i + 1, bytes[i] % 5 == 4 ? bytes[i] % 17 : 0, 0, transfers[i].kind == TransferKind::kRead ? transfers[i].memory.size() : 0};
      if (answer.code != 0) answer.message_bytes = bytes[i];
      input.append(reinterpret_cast<const char*>(&answer), sizeof(answer));
      input.append(answer.code != 0 ? answer.message_bytes : answer.payload_bytes - bytes[i] % 2 * answer.payload_bytes / 2, 'p');
    }
  }
  input.append(reinterpret_cast<const char*>(bytes), size);
  std::vector<DoneChunk> done;
  for (size_t sent = 0; sent < input.size();) {
    const ssize_t n = send(pair.ours.get(), input.data() + sent, std::min<size_t>(input.size() - sent, 30000), MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<size_t>(n);
    if (!channel->Step(&done).ok()) break;
    pair.Read();
  }
  FUZZ_CHECK(done.size() + channel->TakeOpen().size() == transfers.size());
  for (const auto& m : memory) {
    FUZZ_CHECK(std::count(m.begin(), m.begin() + kGuard, 'g') == kGuard && std::count(m.end() - kGuard, m.end(), 'g') == kGuard);
  }
}

// Three channels, of 0, 10 and 40000 bytes a step, with guards around the memory of each.
class GuardedSink final : public StepReader::Sink {
 public:
  static constexpr size_t kGuard = 64;
  static constexpr uint64_t kBytes[] = {0, 10, 40000};

  GuardedSink() {
    for (const uint64_t bytes : kBytes) memory_.emplace_back(bytes + 2 * kGuard, 'g');
  }
  absl::StatusOr<char*> Begin(uint64_t grant, uint64_t seq, uint64_t nbytes) override {
    FUZZ_CHECK(grant >= 1 && grant <= 3 && seq >= 1 && seq <= kMaxStep && begun_ == 0);
    if (nbytes != kBytes[grant - 1]) return absl::UnavailableError("another size");
    begun_ = grant;
    return memory_[grant - 1].data() + kGuard;
  }
  void End(uint64_t grant, uint64_t) override {
    FUZZ_CHECK(std::exchange(begun_, 0) == grant);
    ++answers;
  }
  void Over(uint64_t grant, const absl::Status&) override {
    FUZZ_CHECK(grant >= 1 && grant <= 3 && begun_ == 0);
    ++answers;
  }
  void CheckGuards() const {
    for (const auto& m : memory_) {
      FUZZ_CHECK(std::count(m.begin(), m.begin() + kGuard, 'g') == kGuard && std::count(m.end() - kGuard, m.end(), 'g') == kGuard);
    }
  }
  int answers = 0;

 private:
  std::vector<std::vector<char>> memory_;
  uint64_t begun_ = 0;
};

void Steps(const uint8_t* bytes, size_t size) {
  Pair pair;
  GuardedSink sink;
  const auto reader = StepReader::Over(std::move(pair.theirs), GrantsForTest::Token(1));
  constexpr int kAsked = 6;
  for (uint64_t i = 0; i < kAsked; ++i) reader->Await(1 + i % 3, 0);
  std::string input;
  if (size > 0 && bytes[0] % 4 != 2) {  // answers of the right form, as the bytes say
    const StreamAnswer hello{0, 0, 0, 0};
    input.append(reinterpret_cast<const char*>(&hello), sizeof(hello));
    for (size_t i = 0; i < size && i < 2 * kAsked; ++i) {
      const uint64_t request = bytes[i] % 16 == 15 ? bytes[i] : 1 + (i * 5) % kAsked;
      const bool closed = bytes[i] % 8 == 7;
      const uint64_t nbytes = closed ? 0 : GuardedSink::kBytes[(request - 1) % 3];
      const StreamAnswer answer{request, 0, 0, sizeof(StepHead) + nbytes};
      const StepHead head{closed ? 0 : 1 + uint64_t{bytes[i]}, closed ? uint32_t{kStepClosed} : 0, 0};
      input.append(reinterpret_cast<const char*>(&answer), sizeof(answer));
      input.append(reinterpret_cast<const char*>(&head), sizeof(head));
      input.append(nbytes, 's');
    }
  }
  input.append(reinterpret_cast<const char*>(bytes), size);
  for (size_t sent = 0; sent < input.size();) {
    const ssize_t n = send(pair.ours.get(), input.data() + sent, std::min<size_t>(input.size() - sent, 30000), MSG_NOSIGNAL);
    if (n > 0) sent += static_cast<size_t>(n);
    if (!reader->Step(&sink).ok()) break;
    pair.Read();
  }
  FUZZ_CHECK(sink.answers <= kAsked);
  sink.CheckGuards();
}

}  // namespace
}  // namespace penstock::stream

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  if (data[0] % 2 == 0) {
    penstock::stream::Server(data + 1, size - 1);
  } else if (data[0] % 4 == 1) {
    penstock::stream::Steps(data + 1, size - 1);
  } else {
    penstock::stream::Client(data + 1, size - 1);
  }
  return 0;
}
