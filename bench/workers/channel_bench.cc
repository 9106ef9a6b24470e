// What does a step through a channel cost from C++, and one through a pipe beside it?
//
//   channel_bench --address=DIR [--other=DIR]      (asked by bench/runner/suites/channels.py)
//
// A process of its own answers each step with one of its own, so half of a round trip is what a step takes from writer to
// reader. --other: of another node, on which that process is then; beside it a TCP connection over loopback.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <penstock/client.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench/workers/worker.h"
#include "proto/strcat.h"

namespace penstock::bench {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);
struct Size {
  const char* name;
  int64_t bytes;
};
constexpr Size kSizes[] = {{"64 B", 64}, {"28 KiB", 84 * 84 * 4}, {"1 MiB", 1 << 20}};

// While it lives, this thread and the other process have a core each, if there are two. Else the scheduler may have both take
// turns on one: then a step costs a switch of processes.
class Apart {
 public:
  explicit Apart(pid_t other) : other_(other) {
    sched_getaffinity(0, sizeof(before_), &before_);
    int put = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && put < 2; ++cpu) {
      if (!CPU_ISSET(cpu, &before_)) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      sched_setaffinity(put++ == 0 ? 0 : other_, sizeof(one), &one);
    }
  }
  ~Apart() {
    sched_setaffinity(0, sizeof(before_), &before_);
    sched_setaffinity(other_, sizeof(before_), &before_);
  }
  Apart(const Apart&) = delete;

 private:
  const pid_t other_;
  cpu_set_t before_;
};

// Both ways: where the scheduler has them, and apart.
void AddBoth(Worker& worker, const std::string& name, pid_t other, const Worker::Measurement& measure) {
  worker.Add(name, measure);
  worker.Add(name + ", a core each", [other, measure] {
    const Apart apart(other);
    return measure();
  });
}

// A child that echoes, until the channel or pipe ends.
pid_t Fork(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  body();
  _exit(0);
}

absl::Status Put(ChannelWriter& writer, const void* bytes, size_t size) {
  absl::StatusOr<ChannelSlot> slot = writer.Begin();
  if (!slot.ok()) return slot.status();
  std::memcpy(slot->data(), bytes, size);
  return (*std::move(slot)).Commit().status();
}

// Looks at every cache line, as who uses a step does.
uint64_t Sum(absl::Span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); i += 64) sum += static_cast<uint64_t>(bytes[i]);
  return sum;
}

void EchoChannel(const std::string& address, const std::string& name, int64_t bytes) {
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect({.address = address});
  if (!client.ok()) return;
  absl::StatusOr<ChannelWriter> back = (*client)->OpenChannel(name + "/back", DType::kU8, {bytes});
  absl::StatusOr<ChannelReader> there = (*client)->Subscribe(name, {.timeout = kPatience});
  if (!back.ok() || !there.ok()) return;
  while (true) {
    absl::StatusOr<ChannelStep> step = there->Next(kPatience);
    if (!step.ok() || !Put(*back, step->data(), step->nbytes()).ok()) return;
  }
}

struct Channels {
  ChannelWriter there;
  ChannelReader back;
  std::vector<char> bytes;
};

// `echo_at`: the node of the process that answers.
absl::Status AddChannel(Client& client, Worker& worker, const std::string& label, const std::string& echo_at, const Size& size) {
  const std::string name = StrCat("bench/", label, "/", size.bytes);
  const pid_t echo = Fork([&] { EchoChannel(echo_at, name, size.bytes); });
  absl::StatusOr<ChannelWriter> there = client.OpenChannel(name, DType::kU8, {size.bytes});
  if (!there.ok()) return there.status();
  absl::StatusOr<ChannelReader> back = client.Subscribe(name + "/back", {.timeout = kPatience});
  if (!back.ok()) return back.status();
  auto channels = std::make_shared<Channels>(Channels{*std::move(there), *std::move(back), std::vector<char>(static_cast<size_t>(size.bytes), 1)});
  AddBoth(worker, StrCat(label, " ", size.name), echo, [channels]() -> absl::StatusOr<double> {
    absl::StatusOr<double> round_trip = NanosecondsEach([&](uint64_t) -> absl::Status {
      if (absl::Status s = Put(channels->there, channels->bytes.data(), channels->bytes.size()); !s.ok()) return s;
      absl::StatusOr<ChannelStep> step = channels->back.Next(kPatience);
      if (!step.ok()) return step.status();
      Keep(Sum(step->bytes()));
      return step->Ok() ? absl::OkStatus() : absl::DataLossError("overwritten");
    }, 0.2, 32);
    if (round_trip.ok()) *round_trip /= 2;
    return round_trip;
  });
  return absl::OkStatus();
}

bool WriteAll(int fd, const std::vector<char>& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}
bool ReadAll(int fd, std::vector<char>& bytes) {
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = read(fd, bytes.data() + done, bytes.size() - done);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

// Descriptors of this process and of the one that answers.
struct Ends {
  int in, out, echo_in, echo_out;
};

absl::StatusOr<Ends> Pipes() {
  int there[2], back[2];
  if (pipe(there) != 0 || pipe(back) != 0) return absl::InternalError("pipe");
  return Ends{.in = back[0], .out = there[1], .echo_in = there[0], .echo_out = back[1]};
}

absl::StatusOr<Ends> Tcp() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), mine = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* where = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, where, size) != 0 || listen(listener, 1) != 0 || getsockname(listener, where, &size) != 0 || connect(mine, where, size) != 0) {
    return absl::InternalError("a TCP connection over loopback");
  }
  const int echo = accept(listener, nullptr, nullptr);
  close(listener);
  const int yes = 1;
  for (const int fd : {mine, echo}) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  return Ends{.in = mine, .out = mine, .echo_in = echo, .echo_out = echo};
}

absl::Status AddStream(Worker& worker, const std::string& label, const absl::StatusOr<Ends>& ends, const Size& size) {
  if (!ends.ok()) return ends.status();
  const pid_t echo = Fork([&] {
    close(ends->out);
    std::vector<char> bytes(static_cast<size_t>(size.bytes));
    while (ReadAll(ends->echo_in, bytes) && WriteAll(ends->echo_out, bytes)) {
    }
  });
  auto bytes = std::make_shared<std::vector<char>>(static_cast<size_t>(size.bytes));
  AddBoth(worker, StrCat(label, " ", size.name), echo, [bytes, out = ends->out, in = ends->in]() -> absl::StatusOr<double> {
    absl::StatusOr<double> round_trip = NanosecondsEach([&](uint64_t) -> absl::Status {
      return WriteAll(out, *bytes) && ReadAll(in, *bytes) ? absl::OkStatus() : absl::UnavailableError("the other end is gone");
    }, 0.2, 32);
    if (round_trip.ok()) *round_trip /= 2;
    return round_trip;
  });
  return absl::OkStatus();
}

// Without anybody who waits: what a writer pays.
absl::Status AddWrite(Client& client, Worker& worker) {
  absl::StatusOr<ChannelWriter> opened = client.OpenChannel("bench/write", DType::kU8, {64});
  if (!opened.ok()) return opened.status();
  auto writer = std::make_shared<ChannelWriter>(*std::move(opened));
  worker.Add("write 64 B", [writer] {
    const std::vector<char> bytes(64, 1);
    return NanosecondsEach([&](uint64_t) { return Put(*writer, bytes.data(), bytes.size()); });
  });
  return absl::OkStatus();
}

absl::Status AddRegion(Client& client, Worker& worker) {
  absl::StatusOr<Region> opened = client.OpenRegion("bench/region", {.nbytes = 4096});
  if (!opened.ok()) return opened.status();
  auto region = std::make_shared<Region>(*std::move(opened));
  worker.Add("region read", [region] { return NanosecondsEach([&](uint64_t) { return region->Read().status(); }); });
  worker.Add("region write", [region] { return NanosecondsEach([&](uint64_t) { return region->Write().status(); }); });
  return absl::OkStatus();
}

int Run(int argc, char** argv) {
  const std::string address = FlagValue(argc, argv, "address"), other = FlagValue(argc, argv, "other");
  const std::string channel = other.empty() ? "channel" : "channel between nodes";
  Worker worker;
  absl::Status status;
  for (const Size& size : kSizes) {  // before there are threads
    status.Update(other.empty() ? AddStream(worker, "pipe", Pipes(), size) : AddStream(worker, "TCP", Tcp(), size));
  }
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect({.address = address, .timeout = kPatience});
  status.Update(client.status());
  for (const Size& size : kSizes) {
    if (status.ok()) status = AddChannel(**client, worker, channel, other.empty() ? address : other, size);
  }
  if (status.ok() && other.empty()) status = AddWrite(**client, worker);
  if (status.ok() && other.empty()) status = AddRegion(**client, worker);
  if (!status.ok()) {
    std::cerr << "channel_bench: " << status << "\n";
    return 1;
  }
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
