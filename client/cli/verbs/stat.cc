// penstock stat: all that is known about tensors, without changing their lifetime.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "version", .value = "N", .help = "this version [default: the present one]"},
    {.name = "why", .help = "why each node that holds it was chosen"},
};

constexpr Example kExamples[] = {
    {"penstock stat model/wte", "one tensor"},
    {"penstock stat -o json model/wte | jq '.[0].version'", "its version number"},
    {"penstock stat --why model/wte", "and why the nodes that hold it were chosen"},
};

using Placements = google::protobuf::RepeatedPtrField<v1::TensorInfo::Placement>;

absl::StatusOr<Placements> WhyOf(Invocation& invocation, const TensorInfo& info) {
  v1::StatRequest request;
  request.add_items()->set_name(info.name);
  CLI_ASSIGN_OR_RETURN(v1::StatResponse response, invocation.Call<v1::StatResponse>(rpc::Method::kStat, request));
  if (response.results_size() == 1 && response.results(0).info().placements_size() > 0) return response.results(0).info().placements();
  Placements here;  // a node that is in no cluster
  for (const std::string& node : info.nodes) {
    v1::TensorInfo::Placement* placement = here.Add();
    placement->set_node(node);
    placement->set_why("put here by its client");
  }
  return here;
}

Json JsonWithWhy(const TensorInfo& info, const Placements& placements) {
  Json json = TensorJson(info);
  json["placements"] = Json::array();
  for (const v1::TensorInfo::Placement& placement : placements) json["placements"].push_back({{"node", placement.node()}, {"why", placement.why()}});
  return json;
}

void PrintText(const Invocation& invocation, const TensorInfo& info, const Placements& placements) {
  std::string text = StrCat(
      info.name, "\n  version    ", VersionText(info.version), "\n  dtype      ",
      DTypeName(info.dtype), "\n  shape      ", info.shape.ToString(), "\n  bytes      ",
      info.nbytes, " (", FormatSize(info.nbytes), ")\n  created    ", ShortTimeText(info.created),
      "\n  class      ", ClassText(info),
      "\n  expires    ", info.expires.has_value() ? ShortTimeText(*info.expires) : "never",
      "\n  replicas   ", info.replicas, "\n  nodes      ", Join(info.nodes, ", "),
      "\n  immutable  by the ", info.immutable, "\n");
  if (info.crc32c) StrAppend(&text, "  crc32c     ", Crc32cText(*info.crc32c), "\n");
  for (const auto& [key, value] : info.metadata)
    StrAppend(&text, "  metadata   ", key, " = ", value, "\n");
  for (const v1::TensorInfo::Placement& placement : placements)
    StrAppend(&text, "  node       ", placement.node(), ": ", placement.why(), "\n");
  invocation.Print(text);
}

absl::Status Run(Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> version, invocation.args().Number("version"));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  Json found = Json::array();
  for (const std::string& name : invocation.args().positional()) {
    const absl::StatusOr<TensorInfo> info = client->Stat(name, version);
    const bool why = info.ok() && invocation.args().Has("why");
    const absl::StatusOr<Placements> placements = why ? WhyOf(invocation, *info) : Placements();
    if (!info.ok() || !placements.ok()) {
      invocation.Report(info.ok() ? placements.status() : info.status());
    } else if (invocation.json()) {
      found.push_back(why ? JsonWithWhy(*info, *placements) : TensorJson(*info));
    } else {
      PrintText(invocation, *info, *placements);
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
        "writer. Names that are missing are told and make the exit code 3; the rest is shown. --why tells of each node who wanted "
        "it there (its client, the number of replicas, a repair, a move), and what spoke for that node at that moment.",
    .json = "an array of the tensors found, each as `ls -o json` shows it; with --why also placements: [{node, why}]",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
