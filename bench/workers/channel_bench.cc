// What does a step through a channel cost from C++, and one through a pipe beside it?
//
//   channel_bench --address=DIR      (asked by bench/runner/suites/channels.py)
//
// A process of its own answers each step with one of its own, so half of a round trip is what a step takes from writer to
// reader.
#include <penstock/client.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
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

absl::Status AddChannel(Client& client, Worker& worker, const std::string& address, const Size& size) {
  const std::string name = StrCat("bench/", size.bytes);
  const pid_t echo = Fork([&] { EchoChannel(address, name, size.bytes); });
  absl::StatusOr<ChannelWriter> there = client.OpenChannel(name, DType::kU8, {size.bytes});
  if (!there.ok()) return there.status();
  absl::StatusOr<ChannelReader> back = client.Subscribe(name + "/back", {.timeout = kPatience});
  if (!back.ok()) return back.status();
  auto channels = std::make_shared<Channels>(Channels{*std::move(there), *std::move(back), std::vector<char>(static_cast<size_t>(size.bytes), 1)});
  AddBoth(worker, StrCat("channel ", size.name), echo, [channels]() -> absl::StatusOr<double> {
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

absl::Status AddPipe(Worker& worker, const Size& size) {
  int there[2], back[2];
  if (pipe(there) != 0 || pipe(back) != 0) return absl::InternalError("pipe");
  const pid_t echo = Fork([&] {
    close(there[1]);
    std::vector<char> bytes(static_cast<size_t>(size.bytes));
    while (ReadAll(there[0], bytes) && WriteAll(back[1], bytes)) {
    }
  });
  auto bytes = std::make_shared<std::vector<char>>(static_cast<size_t>(size.bytes));
  AddBoth(worker, StrCat("pipe ", size.name), echo, [bytes, out = there[1], in = back[0]]() -> absl::StatusOr<double> {
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
  const std::string address = FlagValue(argc, argv, "address");
  Worker worker;
  absl::Status status;
  for (const Size& size : kSizes) status.Update(AddPipe(worker, size));  // before there are threads
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Connect({.address = address, .timeout = kPatience});
  status.Update(client.status());
  for (const Size& size : kSizes) {
    if (status.ok()) status = AddChannel(**client, worker, address, size);
  }
  if (status.ok()) status = AddWrite(**client, worker);
  if (status.ok()) status = AddRegion(**client, worker);
  if (!status.ok()) {
    std::cerr << "channel_bench: " << status << "\n";
    return 1;
  }
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Run(argc, argv); }
