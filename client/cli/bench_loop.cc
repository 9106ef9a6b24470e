#include "client/cli/bench_loop.h"

#include <unistd.h>

#include <algorithm>

#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::cli {
namespace {

uint64_t NowNs() { return static_cast<uint64_t>(MonotonicNanos()); }

// xorshift64: cheap enough not to show in what is measured.
struct Random {
  uint64_t state = 0x9E3779B97F4A7C15;
  uint64_t Next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
};

class Bench {
 public:
  Bench(Client& client, const BenchOptions& options)
      : client_(client),
        options_(options),
        folder_(StrCat("penstock-bench/", getpid(), "-", NowNs(), "/")),
        bytes_(options.tensor_bytes, std::byte{7}),
        tensor_{
            bytes_.data(), DType::kU8, Shape({static_cast<int64_t>(options.tensor_bytes)}), {}} {
    for (uint64_t i = 0; i < options.names; ++i) names_.push_back(StrCat(folder_, i));
  }
  ~Bench() { client_.DeletePrefix(folder_).IgnoreError(); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  absl::StatusOr<BenchResult> Run() {
    for (const std::string& name : names_) {
      CLI_RETURN_IF_ERROR(client_.Put(name, tensor_).status());
    }
    BenchResult result;
    result.samples_ns.reserve(kMaxBenchSamples);
    CatchInterrupts();
    const uint64_t begin = NowNs();
    const uint64_t end = begin + static_cast<uint64_t>(absl::ToInt64Nanoseconds(options_.duration));
    uint64_t now = begin;
    while (now < end && !Interrupted()) {
      CLI_RETURN_IF_ERROR(One());
      const uint64_t after = NowNs();
      if (result.samples_ns.size() < kMaxBenchSamples) {
        result.samples_ns.push_back(
            static_cast<uint32_t>(std::min<uint64_t>(after - now, UINT32_MAX)));
      }
      now = after;
      ++result.operations;
    }
    result.seconds = static_cast<double>(now - begin) / 1e9;
    return result;
  }

 private:
  absl::Status One() {
    const uint64_t random = random_.Next();
    const std::string& name = names_[(random >> 16) % names_.size()];
    if (static_cast<int>(random % 100) < options_.put_percent) {
      return client_.Put(name, tensor_).status();
    }
    return client_.Get(name).status();
  }

  Client& client_;
  const BenchOptions options_;
  const std::string folder_;
  const std::vector<std::byte> bytes_;
  const ConstTensorRef tensor_;
  std::vector<std::string> names_;
  Random random_;
};

}  // namespace

absl::StatusOr<BenchResult> RunBench(Client& client, const BenchOptions& options) {
  return Bench(client, options).Run();
}

double Quantile(std::vector<uint32_t>& samples_ns, double fraction) {
  if (samples_ns.empty()) return 0;
  std::sort(samples_ns.begin(), samples_ns.end());
  const auto last = static_cast<double>(samples_ns.size() - 1);
  return samples_ns[static_cast<size_t>(last * fraction + 0.5)];
}

std::string TimeText(double ns) {
  const auto [unit, name] = ns < 1e4   ? std::pair(1.0, "ns")
                            : ns < 1e7 ? std::pair(1e3, "us")
                            : ns < 1e10 ? std::pair(1e6, "ms")
                                        : std::pair(1e9, "s");
  char text[32];
  std::snprintf(text, sizeof(text), ns < 1e4 ? "%.0f %s" : "%.1f %s", ns / unit, name);
  return text;
}

}  // namespace penstock::cli
