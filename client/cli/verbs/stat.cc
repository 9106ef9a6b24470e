// penstock stat: all that is known about tensors, without changing their lifetime.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "version", .value = "N", .help = "this version [default: the present one]"},
};

constexpr Example kExamples[] = {
    {"penstock stat model/wte", "one tensor"},
    {"penstock stat -o json model/wte | jq '.[0].version'", "its version number"},
};

void PrintText(const Invocation& invocation, const TensorInfo& info) {
  std::string text = StrCat(
      info.name, "\n  version    ", VersionText(info.version), "\n  dtype      ",
      DTypeName(info.dtype), "\n  shape      ", info.shape.ToString(), "\n  bytes      ",
      info.nbytes, " (", FormatSize(info.nbytes), ")\n  created    ", ShortTimeText(info.created),
      "\n  class      ", info.keep ? "keep (never evicted)" : "cache (may be evicted)",
      "\n  expires    ", info.expires.has_value() ? ShortTimeText(*info.expires) : "never",
      "\n  replicas   ", info.replicas, "\n  nodes      ", Join(info.nodes, ", "),
      "\n  immutable  by the ", info.immutable, "\n");
  for (const auto& [key, value] : info.metadata)
    StrAppend(&text, "  metadata   ", key, " = ", value, "\n");
  invocation.Print(text);
}

absl::Status Run(Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> version, invocation.args().Number("version"));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  Json found = Json::array();
  for (const std::string& name : invocation.args().positional()) {
    const absl::StatusOr<TensorInfo> info = client->Stat(name, version);
    if (!info.ok()) {
      invocation.Report(info.status());
    } else if (invocation.json()) {
      found.push_back(TensorJson(*info));
    } else {
      PrintText(invocation, *info);
    }
  }
  if (invocation.json()) invocation.PrintJson(found);
  return absl::OkStatus();
}

}  // namespace

const Verb kStat = {
    .name = "stat",
    .arguments = "NAME...",
    .min_arguments = 1,
    .max_arguments = kAnyNumber,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "show what is known about tensors",
    .details =
        "Shows version, dtype, shape, size, times, class, metadata, and who guarantees that "
        "the bytes cannot change: the kernel, or (for a large tensor, until it is adopted) its "
        "writer. Names that are missing are told and make the exit code 3; the rest is shown.",
    .json = "an array of the tensors found, each as `ls -o json` shows it",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
