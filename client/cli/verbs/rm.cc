// penstock rm: deletes tensors, one by one or everything under a name.
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/verbs/verbs.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "recursive", .letter = 'r', .help = "NAME itself and everything under NAME/"},
    {.name = "force", .letter = 'f', .help = "a name that is not there is no error"},
    {.name = "all", .help = "every tensor of the store; takes no NAME"},
    {.name = "version", .value = "N", .help = "delete only if N is the present version"},
};

constexpr Example kExamples[] = {
    {"penstock rm model/wte", "one tensor; views of it stay valid"},
    {"penstock rm -r model", "model, model/wte, model/h/0/attn, ... but not model2"},
};

absl::StatusOr<uint64_t> RemoveOne(Client& client, const std::string& name, const Args& args) {
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> version, args.Number("version"));
  CLI_ASSIGN_OR_RETURN(const bool existed, client.Delete(name, version));
  if (existed || args.Has("force")) return existed ? 1 : 0;
  return absl::NotFoundError(StrCat("rm '", name, "': there is no such tensor",
                                    version.has_value() ? StrCat(" of version ", *version) : ""));
}

absl::StatusOr<uint64_t> RemoveTree(Client& client, const std::string& name, const Args& args) {
  if (name.empty()) {
    return absl::InvalidArgumentError("rm -r: NAME is empty; to delete everything write rm --all");
  }
  if (args.Has("version")) {
    return absl::InvalidArgumentError("rm: --version goes with one tensor, not with --recursive");
  }
  uint64_t removed = 0;
  std::string prefix = name;
  if (prefix.back() != '/') {
    CLI_ASSIGN_OR_RETURN(const bool existed, client.Delete(name));
    removed += existed ? 1 : 0;
    prefix += '/';
  }
  CLI_ASSIGN_OR_RETURN(const uint64_t below, client.DeletePrefix(prefix));
  removed += below;
  if (removed > 0 || args.Has("force")) return removed;
  return absl::NotFoundError(
      StrCat("rm -r '", name, "': there is no tensor of that name or under it"));
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  if (args.Has("all") != args.positional().empty()) {
    return absl::InvalidArgumentError("rm: write either NAME... or --all");
  }
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  uint64_t removed = 0;
  if (args.Has("all")) {
    CLI_ASSIGN_OR_RETURN(removed, client->DeletePrefix(""));
  }
  for (const std::string& name : args.positional()) {
    const absl::StatusOr<uint64_t> count =
        args.Has("recursive") ? RemoveTree(*client, name, args) : RemoveOne(*client, name, args);
    if (count.ok()) {
      removed += *count;
    } else {
      invocation.Report(count.status());
    }
  }
  if (invocation.json()) {
    invocation.PrintJson({{"deleted", removed}});
  } else if (args.Has("recursive") || args.Has("all")) {
    invocation.Print(StrCat(removed, removed == 1 ? " tensor" : " tensors", " deleted\n"));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kRm = {
    .name = "rm",
    .arguments = "NAME...",
    .min_arguments = 0,
    .max_arguments = kAnyNumber,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "delete tensors",
    .details =
        "Deletes tensors. Views that processes hold stay as they are; the memory is reused "
        "when the last one is gone.",
    .json = "{\"deleted\": number of tensors}",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
