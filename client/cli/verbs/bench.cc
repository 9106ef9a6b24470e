// penstock bench: what a get or a put costs on this store at this moment.
#include "client/cli/bench_loop.h"
#include "client/cli/bench_transfer.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kMaxNames = 10'000'000;

constexpr FlagSpec kFlags[] = {
    {.name = "size", .letter = 's', .value = "SIZE", .fallback = "4KiB", .help = "of one tensor; between nodes 4KiB, 1MiB and 64MiB unless it is given"},
    {.name = "count", .letter = 'n', .value = "N", .fallback = "1000", .help = "different names"},
    {.name = "seconds",
     .value = "TIME",
     .fallback = "2s",
     .help = "how long to measure, between nodes each size: 2s, 500ms"},
    {.name = "from", .value = "NODE", .help = "measure transfers from this node; else from the one of --address"},
    {.name = "to", .value = "NODE", .help = "to this node; else to the one of --address"},
};

constexpr Example kExamples[] = {
    {"penstock bench", "gets of 1000 names at random, 4 KiB each"},
    {"penstock bench put --size 1MiB --count 16", "puts over 16 names"},
    {"penstock bench --from 10.0.0.2:7411", "how fast this node reads what that one has"},
    {"penstock bench --to 10.0.0.2:7411 --size 1GiB", "how fast this node's puts get there"},
};

// A plain number is seconds, as the flag's name says.
absl::StatusOr<absl::Duration> Seconds(const Args& args) {
  std::string time = args.Get("seconds");
  if (time.find_first_not_of("0123456789.") == std::string::npos) time += 's';
  const absl::StatusOr<absl::Duration> duration = ParseDuration(time);
  if (!duration.ok() || *duration <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        StrCat("--seconds: '", args.Get("seconds"), "' is not allowed; write a time such as 2s"));
  }
  return *duration;
}

// --from, --to
absl::Status RunBetweenNodes(Invocation& invocation) {
  const Args& args = invocation.args();
  if (!args.positional().empty() || args.Has("count")) {
    return absl::InvalidArgumentError(
        "--from and --to: they measure transfers between nodes; leave out get, put, mixed and "
        "--count");
  }
  std::vector<uint64_t> sizes = {uint64_t{4} << 10, uint64_t{1} << 20, uint64_t{64} << 20};
  if (args.Has("size")) {
    CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> size, args.Size("size"));
    sizes = {*size};
  }
  CLI_ASSIGN_OR_RETURN(const absl::Duration seconds, Seconds(args));
  return RunTransferBench(invocation, sizes, seconds);
}

absl::StatusOr<BenchOptions> Options(const Args& args, const std::string& kind) {
  BenchOptions options;
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> size, args.Size("size"));
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> count, args.Number("count"));
  CLI_ASSIGN_OR_RETURN(options.duration, Seconds(args));
  if (*count < 1 || *count > kMaxNames) {
    return absl::InvalidArgumentError(
        StrCat("--count: ", *count, " is not allowed; write 1 to ", kMaxNames));
  }
  options.tensor_bytes = *size;
  options.names = *count;
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

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  if (args.Has("from") || args.Has("to")) return RunBetweenNodes(invocation);
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
      ", median ", TimeText(p50), ", p99 ", TimeText(p99), ", p99.9 ", TimeText(p999), "\n"));
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
        "gets and 10 % puts) names at random, from one thread, and deletes them again. With "
        "--from or --to (an address or id as in `penstock nodes`) the node of --address reads from, or "
        "writes to, another node instead, over the lane that gets and puts between the two take; the "
        "tensor that this needs there is deleted at the end. The suite "
        "that compares with ceilings and with other stores is bench/run.",
    .json =
        "{bench, tensor_bytes, names, operations, seconds, operations_per_second, p50_ns, p99_ns, "
        "p999_ns}; with --from or --to: {bench: read|write, peer, why, results: [{tensor_bytes, rounds, "
        "p50_ns, p99_ns, bytes_per_second, lane}]}, why: no faster lane",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
