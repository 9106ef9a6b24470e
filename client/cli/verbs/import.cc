// penstock import: files of tensors into the store, in one pass.
#include <algorithm>
#include <memory>
#include <thread>

#include "client/cli/describe.h"
#include "client/cli/import_job.h"
#include "client/cli/import_source.h"
#include "client/cli/invocation.h"
#include "client/cli/put_flags.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "proto/names.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr uint64_t kMaxJobs = 64;
constexpr unsigned kDefaultJobs = 4;

constexpr FlagSpec kFlags[] = {
    {.name = "prefix",
     .letter = 'p',
     .value = "P",
     .help = "store tensor T as P/T [default: as T]"},
    {.name = "jobs",
     .letter = 'j',
     .value = "N",
     .help = "threads [default: the cores, at most 4]"},
    kKeepFlag,
    kCacheFlag,
    kSoftPinFlag,
    kTtlFlag,
    kIfAbsentFlag,
    kMetadataFlag,
};

constexpr Example kExamples[] = {
    {"penstock import model.safetensors --prefix minilm", "every tensor of one file"},
    {"penstock import ~/models/Llama-3-8B --prefix llama",
     "a Hugging Face directory with its shards"},
    {"penstock import a.npz b.npy --prefix data --cache", "NumPy files, evictable"},
};

absl::StatusOr<int> Jobs(const Args& args) {
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> jobs, args.Number("jobs"));
  if (!jobs.has_value()) {
    return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kDefaultJobs));
  }
  if (*jobs < 1 || *jobs > kMaxJobs) {
    return absl::InvalidArgumentError(
        StrCat("--jobs: ", *jobs, " is not allowed; write 1 to ", kMaxJobs));
  }
  return static_cast<int>(*jobs);
}

absl::StatusOr<ImportTotals> ImportPath(Invocation& invocation, Client& client,
                                        const std::string& path, ImportJob job) {
  CLI_ASSIGN_OR_RETURN(const std::unique_ptr<ImportSource> source, ImportSource::Open(path));
  for (const std::string& warning : source->warnings())
    invocation.Warn(StrCat(path, ": ", warning));
  uint64_t total = 0;
  for (size_t i = 0; i < source->size(); ++i) {
    total += source->nbytes(i);
    // All names first: half an import is worse than none.
    const absl::Status status = ValidateUserName(job.prefix + source->name(i));
    if (!status.ok()) return absl::InvalidArgumentError(StrCat(path, ": ", status.message()));
  }
  Progress progress("importing", total);
  job.source = source.get();
  job.advanced = [&progress](uint64_t bytes) { progress.Advance(bytes); };
  return RunImport(client, job);
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  ImportJob job;
  job.prefix = args.Get("prefix");
  if (!job.prefix.empty() && job.prefix.back() != '/') job.prefix += '/';
  CLI_ASSIGN_OR_RETURN(job.options, ReadPutOptions(args));
  CLI_ASSIGN_OR_RETURN(job.jobs, Jobs(args));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());

  const absl::Time begin = absl::Now();
  ImportTotals totals;
  for (const std::string& path : args.positional()) {
    CLI_ASSIGN_OR_RETURN(const ImportTotals one, ImportPath(invocation, *client, path, job));
    totals.tensors += one.tensors;
    totals.bytes += one.bytes;
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const double rate = seconds > 0 ? static_cast<double>(totals.bytes) / seconds : 0;
  if (invocation.json()) {
    invocation.PrintJson({{"files", args.positional()},
                          {"prefix", job.prefix},
                          {"tensors", totals.tensors},
                          {"bytes", totals.bytes},
                          {"seconds", seconds},
                          {"bytes_per_second", rate}});
    return absl::OkStatus();
  }
  char took[32];
  std::snprintf(took, sizeof(took), "%.3f s", seconds);
  invocation.Print(StrCat(totals.tensors, totals.tensors == 1 ? " tensor, " : " tensors, ",
                          FormatSize(totals.bytes), " in ", took, ", ",
                          FormatSize(static_cast<uint64_t>(rate)), "/s",
                          job.prefix.empty() ? "" : StrCat(", under ", job.prefix), "\n"));
  return absl::OkStatus();
}

}  // namespace

const Verb kImport = {
    .name = "import",
    .arguments = "FILE|DIR...",
    .min_arguments = 1,
    .max_arguments = kAnyNumber,
    .argument_kind = ArgumentKind::kFile,
    .summary = "store all tensors of files or directories",
    .details =
        "Reads .safetensors, .npy and .npz files and Hugging Face directories (sharded or not) "
        "and stores each tensor under its own name, in one pass: from the mapped file into the "
        "store's memory. A .npy file gives its own name without the ending. The metadata of a "
        "safetensors file is kept with its first tensor, as safetensors.KEY. After an error "
        "the tensors that were stored before it stay.",
    .json = "{files, prefix, tensors, bytes, seconds, bytes_per_second}",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
