// penstock bench: what a get or a put costs on this store at this moment.
#include "client/cli/bench_loop.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kMaxNames = 10'000'000;

constexpr FlagSpec kFlags[] = {
    {.name = "size", .letter = 's', .value = "SIZE", .fallback = "4KiB", .help = "of one tensor"},
    {.name = "count", .letter = 'n', .value = "N", .fallback = "1000", .help = "different names"},
    {.name = "seconds",
     .value = "TIME",
     .fallback = "2s",
     .help = "how long to measure: 2s, 500ms"},
};

constexpr Example kExamples[] = {
    {"penstock bench", "gets of 1000 names at random, 4 KiB each"},
    {"penstock bench put --size 1MiB --count 16", "puts over 16 names"},
};

absl::StatusOr<BenchOptions> Options(const Args& args, const std::string& kind) {
  BenchOptions options;
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> size, args.Size("size"));
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> count, args.Number("count"));
  // A plain number is seconds, as the flag's name says.
  std::string time = args.Get("seconds");
  if (time.find_first_not_of("0123456789.") == std::string::npos) time += 's';
  const absl::StatusOr<absl::Duration> duration = ParseDuration(time);
  if (!duration.ok() || *duration <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        StrCat("--seconds: '", args.Get("seconds"), "' is not allowed; write a time such as 2s"));
  }
  if (*count < 1 || *count > kMaxNames) {
    return absl::InvalidArgumentError(
        StrCat("--count: ", *count, " is not allowed; write 1 to ", kMaxNames));
  }
  options.tensor_bytes = *size;
  options.names = *count;
  options.duration = *duration;
  if (kind == "get") {
    options.put_percent = 0;
  } else if (kind == "put") {
    options.put_percent = 100;
  } else if (kind == "mixed") {
    options.put_percent = 10;
  } else {
    return absl::InvalidArgumentError(
        StrCat("bench: '", kind, "' is not allowed; write get, put or mixed"));
  }
  return options;
}

std::string TimeNs(double ns) {
  char text[32];
  if (ns < 1e4) {
    std::snprintf(text, sizeof(text), "%.0f ns", ns);
  } else {
    std::snprintf(text, sizeof(text), "%.1f us", ns / 1e3);
  }
  return text;
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const std::string kind = args.positional().empty() ? "get" : args.positional()[0];
  CLI_ASSIGN_OR_RETURN(const BenchOptions options, Options(args, kind));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  CLI_ASSIGN_OR_RETURN(BenchResult result, RunBench(*client, options));

  const double rate = static_cast<double>(result.operations) / result.seconds;
  const double bytes_rate = rate * static_cast<double>(options.tensor_bytes);
  const double p50 = Quantile(result.samples_ns, 0.5);
  const double p99 = Quantile(result.samples_ns, 0.99);
  const double p999 = Quantile(result.samples_ns, 0.999);
  if (invocation.json()) {
    invocation.PrintJson({{"bench", kind},
                          {"tensor_bytes", options.tensor_bytes},
                          {"names", options.names},
                          {"operations", result.operations},
                          {"seconds", result.seconds},
                          {"operations_per_second", rate},
                          {"p50_ns", p50},
                          {"p99_ns", p99},
                          {"p999_ns", p999}});
    return absl::OkStatus();
  }
  invocation.Print(StrCat(
      kind, " of ", FormatSize(options.tensor_bytes), ", ", options.names,
      " names at random: ", static_cast<uint64_t>(rate), "/s",
      kind == "get" ? "" : StrCat(" (", FormatSize(static_cast<uint64_t>(bytes_rate)), "/s)"),
      ", median ", TimeNs(p50), ", p99 ", TimeNs(p99), ", p99.9 ", TimeNs(p999), "\n"));
  return absl::OkStatus();
}

}  // namespace

const Verb kBench = {
    .name = "bench",
    .arguments = "[get|put|mixed]",
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kWord,
    .words = "get put mixed",
    .summary = "measure gets and puts on the running store",
    .details =
        "Stores --count tensors of --size bytes under penstock-bench/, then gets (or puts, or 90 % "
        "gets and 10 % puts) names at random, from one thread, and deletes them again. The suite "
        "that compares with ceilings and with other stores is bench/run.",
    .json =
        "{bench, tensor_bytes, names, operations, seconds, operations_per_second, p50_ns, p99_ns, "
        "p999_ns}",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
