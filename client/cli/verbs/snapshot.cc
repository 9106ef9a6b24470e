// penstock snapshot: lists, removes and pins snapshots.
#include <penstock/snapshot.h>

#include "absl/strings/numbers.h"
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "unpin", .help = "pin: takes the pin away again"},
};

constexpr Example kExamples[] = {
    {"penstock snapshot ls", "every snapshot of the store"},
    {"penstock snapshot ls ckpt/llama", "those of one prefix, or of all that begin so"},
    {"penstock snapshot rm ckpt/llama 3", "number 3; views of its tensors stay valid"},
    {"penstock snapshot pin ckpt/llama 7", "keep_last passes over it from now on"},
};

Json InfoJson(const std::string& prefix, const SnapshotInfo& info) {
  Json json{{"prefix", prefix}, {"number", info.number}, {"id", info.id}, {"created_ns", absl::ToUnixNanos(info.created)},
            {"tensors", info.tensors}, {"nbytes", info.nbytes}, {"pinned", info.pinned}, {"metadata", Json::object()}};
  for (const auto& [key, value] : info.metadata) json["metadata"][key] = value;
  return json;
}

absl::Status List(Invocation& invocation, Client& client, const std::string& begin) {
  Json json = Json::array();
  Table table({{"PREFIX"}, {"NUMBER", Table::Align::kRight}, {"TENSORS", Table::Align::kRight}, {"SIZE", Table::Align::kRight}, {"AGE", Table::Align::kRight}, {"PINNED"}});
  CLI_ASSIGN_OR_RETURN(const std::vector<std::string> prefixes, Snapshots::Prefixes(client, begin));
  for (const std::string& prefix : prefixes) {
    CLI_ASSIGN_OR_RETURN(const std::vector<SnapshotInfo> infos, Snapshots(client, prefix).List());
    for (const SnapshotInfo& info : infos) {
      json.push_back(InfoJson(prefix, info));
      table.Add({prefix, StrCat(info.number), StrCat(info.tensors), FormatSize(info.nbytes), AgeText(absl::Now() - info.created), info.pinned ? "yes" : "-"});
    }
  }
  if (invocation.json()) {
    invocation.PrintJson(json);
  } else {
    table.Print();
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> NumberArgument(const std::string& text) {
  uint64_t number = 0;
  if (absl::SimpleAtoi(text, &number) && number > 0) return number;
  return absl::InvalidArgumentError(StrCat("snapshot: NUMBER '", text, "' is not a number above 0"));
}

absl::Status Run(Invocation& invocation) {
  const std::vector<std::string>& arguments = invocation.args().positional();
  const std::string& action = arguments[0];
  if (invocation.args().Has("unpin") && action != "pin") return absl::InvalidArgumentError("snapshot: --unpin goes with pin");
  if (action == "ls") {
    if (arguments.size() > 2) return absl::InvalidArgumentError("snapshot ls: takes one PREFIX at most");
    CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
    return List(invocation, *client, arguments.size() == 2 ? arguments[1] : "");
  }
  if (action != "rm" && action != "pin") return absl::InvalidArgumentError(StrCat("snapshot: '", action, "' is not allowed; write ls, rm or pin"));
  if (arguments.size() != 3) return absl::InvalidArgumentError(StrCat("snapshot ", action, ": write PREFIX NUMBER"));
  CLI_ASSIGN_OR_RETURN(const uint64_t number, NumberArgument(arguments[2]));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  Snapshots snapshots(*client, arguments[1]);
  if (action == "rm") return snapshots.Remove(number);
  return snapshots.Pin(number, !invocation.args().Has("unpin"));
}

}  // namespace

const Verb kSnapshot = {
    .name = "snapshot",
    .arguments = "ls|rm|pin [PREFIX [NUMBER]]",
    .min_arguments = 1,
    .max_arguments = 3,
    .argument_kind = ArgumentKind::kWord,
    .words = "ls rm pin",
    .summary = "list, remove and pin snapshots",
    .details =
        "ls lists snapshots: sets of tensors (state dicts, checkpoints) that were published at once under a prefix. rm removes one, pin "
        "keeps one from being removed by a writer's keep_last.",
    .json =
        "ls: an array of objects with prefix, number, id, created_ns, tensors, nbytes, pinned and metadata (an object of texts); "
        "rm and pin print nothing",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
