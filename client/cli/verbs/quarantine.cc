// penstock quarantine: what a node has and nobody can tell to be current; and what shall become of it.
#include <algorithm>
#include <tuple>
#include <vector>

#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "client/info.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "take", .help = "put them again under their names: with new versions, and unless the name is taken"},
    {.name = "replace", .help = "with --take: even if the name is taken; the newest of what is quarantined wins"},
    {.name = "drop", .help = "give up their memory"},
    {.name = "all", .help = "with --take and --drop: all that this node has; takes no PREFIX"},
};

constexpr Example kExamples[] = {
    {"penstock quarantine", "what there is at this node, and how much memory it keeps"},
    {"penstock quarantine --take model/", "serve what lies under model/ again"},
    {"penstock quarantine --drop --all", "and give up the rest"},
};

absl::StatusOr<std::vector<v1::QuarantinedTensor>> ListAll(Invocation& invocation, const std::string& prefix) {
  std::vector<v1::QuarantinedTensor> all;
  v1::QuarantinedRequest request;
  request.set_prefix(prefix);
  while (true) {
    CLI_ASSIGN_OR_RETURN(const v1::QuarantinedResponse page, invocation.Call<v1::QuarantinedResponse>(rpc::Method::kQuarantined, request));
    all.insert(all.end(), page.items().begin(), page.items().end());
    if (!page.more()) break;
    v1::QuarantinedTensor* after = request.mutable_after();
    after->mutable_info()->set_name(all.back().info().name());
    after->set_op_session(all.back().op_session());
    after->set_op_count(all.back().op_count());
  }
  // Of one name the newest first: it is the one to take.
  const auto age = [](const v1::QuarantinedTensor& one) {
    return std::make_tuple(one.info().version().term(), one.info().version().number(), one.info().created_ns());
  };
  std::stable_sort(all.begin(), all.end(), [&](const auto& a, const auto& b) {
    return a.info().name() != b.info().name() ? a.info().name() < b.info().name() : age(a) > age(b);
  });
  return all;
}

absl::Status Show(Invocation& invocation, const std::vector<v1::QuarantinedTensor>& all) {
  if (invocation.json()) {
    Json json = Json::array();
    for (const v1::QuarantinedTensor& one : all) json.push_back(TensorJson(client::InfoOf(one.info())));
    invocation.PrintJson(json);
    return absl::OkStatus();
  }
  Table table({{"NAME"}, {"VERSION", Table::Align::kRight}, {"SIZE", Table::Align::kRight}, {"CREATED"}});
  uint64_t bytes = 0;
  for (const v1::QuarantinedTensor& one : all) {
    const v1::TensorInfo& info = one.info();
    bytes += info.nbytes();
    table.Add({info.name(), VersionText({info.version().term(), info.version().number()}), FormatSize(info.nbytes()),
               ShortTimeText(absl::FromUnixNanos(static_cast<int64_t>(info.created_ns())))});
  }
  if (!all.empty()) table.Print();
  invocation.Print(StrCat(all.size(), all.size() == 1 ? " tensor" : " tensors", ", ", FormatSize(bytes), "\n"));
  return absl::OkStatus();
}

absl::Status Settle(Invocation& invocation, const std::vector<v1::QuarantinedTensor>& all) {
  const bool take = invocation.args().Has("take");
  uint64_t done = 0;
  std::string last;  // that was taken
  CatchInterrupts();
  for (const v1::QuarantinedTensor& one : all) {
    if (Interrupted()) break;
    const std::string& name = one.info().name();
    if (take && name == last) continue;  // an older one
    v1::SettleQuarantinedRequest request;
    request.set_name(name);
    request.set_op_session(one.op_session());
    request.set_op_count(one.op_count());
    request.set_take(take);
    request.set_replace(invocation.args().Has("replace"));
    const auto settled = invocation.Call<v1::SettleQuarantinedResponse>(rpc::Method::kSettleQuarantined, request);
    if (settled.ok()) {
      ++done;
      last = name;
    } else if (!absl::IsNotFound(settled.status())) {  // somebody else has settled it
      invocation.Report(settled.status());
    }
  }
  if (invocation.json()) {
    invocation.PrintJson({{take ? "taken" : "dropped", done}});
  } else {
    invocation.Print(StrCat(done, done == 1 ? " tensor " : " tensors ", take ? "taken" : "dropped", "\n"));
  }
  return absl::OkStatus();
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const bool settles = args.Has("take") || args.Has("drop");
  if (args.Has("take") && args.Has("drop")) return absl::InvalidArgumentError("quarantine: write either --take or --drop");
  if (args.Has("replace") && !args.Has("take")) return absl::InvalidArgumentError("quarantine: --replace goes with --take");
  if (args.Has("all") && !args.positional().empty()) return absl::InvalidArgumentError("quarantine: write either PREFIX or --all");
  if (settles && !args.Has("all") && args.positional().empty()) {
    return absl::InvalidArgumentError("quarantine: PREFIX is missing; to settle everything that this node has write --all");
  }
  CLI_ASSIGN_OR_RETURN(const std::vector<v1::QuarantinedTensor> all, ListAll(invocation, args.positional().empty() ? std::string() : args.positional()[0]));
  return settles ? Settle(invocation, all) : Show(invocation, all);
}

}  // namespace

const Verb kQuarantine = {
    .name = "quarantine",
    .arguments = "[PREFIX]",
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "show and settle tensors of which nobody can tell whether they are current",
    .details =
        "After etcd has lost its data, or the home and the backup of a name died together, a node may have tensors of which nobody can tell "
        "whether they were overwritten or deleted. It keeps them (penstock df counts them), and serves them to nobody, until somebody who "
        "knows says what they are: --take puts them again, for everybody to get; --drop gives up their memory. Each node tells of its own; of "
        "one name that several nodes have, the first that is taken wins, and the others are to be dropped.",
    .json =
        "an array of tensors as `penstock stat` tells them, the newest of each name first; with --take an object with `taken`, with "
        "--drop one with `dropped`: how many",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
