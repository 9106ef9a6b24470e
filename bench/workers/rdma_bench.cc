// What the rdma lane reads of another process's memory, and what that costs the other process.
//
//   rdma_bench --serve               shows 64 MiB, prints "PID ADDRESS KEY WORKER" (the last two in hex), until stdin ends
//   rdma_bench --pid=PID --block=ADDRESS --key=HEX --peer=HEX    the worker: reads that memory
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "bench/workers/worker.h"
#include "transport/ucx/rdma_lane.h"
#include "transport/ucx/rdma_target.h"

namespace penstock::bench {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{64} << 20;

char* WarmMemory(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "rdma_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}

int Serve() {
  auto context = OpenRdma(RdmaEnd::kOwner);
  if (!context.ok()) return Fail(context.status());
  auto target = RdmaTarget::Start(*context);
  if (!target.ok()) return Fail(target.status());
  char* const data = WarmMemory(kBlockBytes);
  auto block = (*target)->Register(data, kBlockBytes);
  if (!block.ok()) return Fail(block.status());
  std::printf("%d %llu %s %s\n", getpid(), reinterpret_cast<unsigned long long>(data), std::string(absl::BytesToHexString(block->key)).c_str(),
              std::string(absl::BytesToHexString((*target)->address())).c_str());
  std::fflush(stdout);
  while (std::fgetc(stdin) != EOF) {
  }
  return 0;
}

// Seconds of CPU that the threads of a process have had.
double CpuSeconds(const std::string& pid) {
  double nanoseconds = 0;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + pid + "/task")) {
    double one = 0;
    std::ifstream(thread.path() / "schedstat") >> one;
    nanoseconds += one;
  }
  return nanoseconds * 1e-9;
}

int Main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--serve") return Serve();
  const std::string pid = FlagValue(argc, argv, "pid");
  const std::string peer = absl::HexStringToBytes(FlagValue(argc, argv, "peer"));
  const RemoteBlock block{.address = std::strtoull(FlagValue(argc, argv, "block").c_str(), nullptr, 10), .bytes = kBlockBytes,
                          .key = absl::HexStringToBytes(FlagValue(argc, argv, "key")), .hold = nullptr};
  auto context = OpenRdma(RdmaEnd::kReader);
  if (!context.ok()) return Fail(context.status());
  auto lane = RdmaLane::Create(*context, {.peer = [&] { return peer; }, .locate = [&](uint64_t, TransferKind) { return block; }});
  if (!lane.ok()) return Fail(lane.status());
  char* const memory = WarmMemory(kBlockBytes);
  const auto read = [&](uint64_t bytes) {
    Transfer transfer{.grant = 1, .runs = ByteRuns::Whole(bytes), .memory = {memory, bytes}};
    (*lane)->Run(absl::MakeSpan(&transfer, 1), {.timeout = absl::Seconds(60)});
    return transfer.status;
  };
  // Bytes a second over about 64 MiB.
  const auto rate = [&](uint64_t bytes) -> absl::StatusOr<double> {
    const int rounds = static_cast<int>(kBlockBytes / bytes);
    const auto seconds = SecondsOnce([&]() -> absl::Status {
      for (int i = 0; i < rounds; ++i) {
        if (absl::Status s = read(bytes); !s.ok()) return s;
      }
      return absl::OkStatus();
    });
    if (!seconds.ok()) return seconds.status();
    return static_cast<double>(kBlockBytes) / *seconds;
  };
  Worker worker;
  worker.Add("read 1 MiB", [&] { return rate(uint64_t{1} << 20); });
  worker.Add("read 64 MiB", [&] { return rate(kBlockBytes); });
  // Seconds of CPU a second.
  const auto cpu = [&](auto what) -> absl::StatusOr<double> {
    const double before = CpuSeconds(pid);
    const auto seconds = SecondsOnce(what);
    if (!seconds.ok()) return seconds.status();
    return (CpuSeconds(pid) - before) / *seconds;
  };
  worker.Add("target's CPU in reads", [&] { return cpu([&] { return read(kBlockBytes); }); });
  worker.Add("target's CPU asleep", [&] {
    return cpu([] {
      absl::SleepFor(absl::Seconds(1));
      return absl::OkStatus();
    });
  });
  return worker.Serve();
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::Main(argc, argv); }
