// penstock move: gives tensors to another node of the cluster.
#include <vector>

#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "to", .value = "NODE", .help = "the node that shall have it: its uuid, as `penstock nodes` shows it, or its beginning"},
    {.name = "copy", .help = "nobody gives it up: one more copy"},
    {.name = "recursive", .letter = 'r', .help = "everything under NAME/"},
};

constexpr Example kExamples[] = {
    {"penstock move model/wte --to 0f5c", "the node whose uuid begins with 0f5c holds it from now on"},
    {"penstock move -r model --to 0f5c --copy", "and here it gets a copy of all that is under model/"},
};

struct Moved {
  std::string name;
  MoveResult result;
};

absl::Status MoveTree(Invocation& invocation, Client& client, std::string folder, const std::string& to, bool copy, std::vector<Moved>* moved) {
  if (folder.empty()) return absl::InvalidArgumentError("move -r: NAME is empty");
  if (folder.back() != '/') folder += '/';
  CatchInterrupts();
  ListPage page;
  std::string after;
  do {
    CLI_ASSIGN_OR_RETURN(page, client.List(folder, after));
    for (const TensorInfo& info : page.items) {
      if (Interrupted()) return absl::OkStatus();
      after = info.name;
      absl::StatusOr<MoveResult> result = client.Move(info.name, to, copy);
      if (result.ok()) {
        moved->push_back({info.name, *std::move(result)});
      } else {
        invocation.Report(result.status());
      }
    }
  } while (page.more && !page.items.empty());
  if (after.empty()) return absl::NotFoundError(StrCat("move -r: there is no tensor under '", folder, "'"));
  return absl::OkStatus();
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const std::string to = args.Get("to");
  if (to.empty()) return absl::InvalidArgumentError("move: --to NODE is missing");
  const bool copy = args.Has("copy");
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  std::vector<Moved> moved;
  for (const std::string& name : args.positional()) {
    if (args.Has("recursive")) {
      if (absl::Status s = MoveTree(invocation, *client, name, to, copy, &moved); !s.ok()) invocation.Report(s);
      continue;
    }
    absl::StatusOr<MoveResult> result = client->Move(name, to, copy);
    if (result.ok()) {
      moved.push_back({name, *std::move(result)});
    } else {
      invocation.Report(result.status());
    }
  }
  Json told = Json::array();
  for (const Moved& one : moved) {
    told.push_back({{"name", one.name}, {"from", one.result.from.empty() ? Json(nullptr) : Json(one.result.from)}, {"bytes", one.result.bytes}});
    if (invocation.json()) continue;
    std::string text = StrCat(one.name, ": ");
    StrAppend(&text, one.result.bytes == 0 ? "it was there" : StrCat(FormatSize(one.result.bytes), " copied"));
    if (!one.result.from.empty()) StrAppend(&text, ", given up by node ", one.result.from);
    invocation.Print(StrCat(text, "\n"));
  }
  if (invocation.json()) invocation.PrintJson(told);
  return absl::OkStatus();
}

}  // namespace

const Verb kMove{
    .name = "move",
    .arguments = "NAME...",
    .min_arguments = 1,
    .max_arguments = kAnyNumber,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "move tensors, or a copy of them, to another node",
    .details =
        "The node --to copies the tensor; then the fullest of the other nodes that hold it gives it up, unless fewer would be left "
        "than `replicas` asks for. Readers notice nothing. The copying keeps to the node's --repair_bandwidth; it goes on "
        "when this command is stopped.",
    .json = "an array of the tensors that are there now: name, from (the node that gave it up, or null), bytes (copied; 0: it was there)",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
