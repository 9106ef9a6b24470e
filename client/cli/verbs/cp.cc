// penstock cp: copies tensors inside the store.
#include <vector>

#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/put_flags.h"
#include "client/cli/returning.h"
#include "client/cli/verbs/verbs.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "recursive",
     .letter = 'r',
     .help = "everything under SRC/ to the same names under DST/"},
    kIfAbsentFlag,
};

constexpr Example kExamples[] = {
    {"penstock cp model/wte backup/wte", "one tensor"},
    {"penstock cp -r model model-before", "model/wte to model-before/wte, and so on"},
};

absl::StatusOr<TensorInfo> CopyOne(Client& client, const std::string& from, const std::string& to,
                                   bool if_absent) {
  CLI_ASSIGN_OR_RETURN(const TensorView view, client.Get(from));
  const TensorInfo source = view.info();
  PutOptions options;
  options.keep = source.keep;
  options.soft_pin = source.soft_pin;
  options.if_absent = if_absent;
  options.metadata = source.metadata;
  if (source.expires.has_value()) {
    options.ttl = std::max(*source.expires - absl::Now(), absl::Milliseconds(1));
  }
  return client.Put(to, ConstTensorRef{view.data(), view.dtype(), view.shape(), {}}, options);
}

absl::Status CopyTree(Invocation& invocation, Client& client, std::string from, std::string to,
                      bool if_absent, std::vector<TensorInfo>* copies) {
  if (from.empty() || to.empty()) return absl::InvalidArgumentError("cp -r: SRC or DST is empty");
  if (from.back() != '/') from += '/';
  if (to.back() != '/') to += '/';
  if (to.compare(0, from.size(), from) == 0) {
    return absl::InvalidArgumentError(
        StrCat("cp -r: DST '", to, "' is SRC '", from, "' or lies under it"));
  }
  ListPage page;
  std::string after;
  do {
    CLI_ASSIGN_OR_RETURN(page, client.List(from, after));
    for (const TensorInfo& info : page.items) {
      after = info.name;
      absl::StatusOr<TensorInfo> copy =
          CopyOne(client, info.name, to + info.name.substr(from.size()), if_absent);
      if (copy.ok()) {
        copies->push_back(*std::move(copy));
      } else {
        invocation.Report(copy.status());
      }
    }
  } while (page.more && !page.items.empty());
  if (after.empty())
    return absl::NotFoundError(StrCat("cp -r: there is no tensor under '", from, "'"));
  return absl::OkStatus();
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const std::string& from = args.positional()[0];
  const std::string& to = args.positional()[1];
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  std::vector<TensorInfo> copies;
  if (args.Has("recursive")) {
    CLI_RETURN_IF_ERROR(CopyTree(invocation, *client, from, to, args.Has("if-absent"), &copies));
  } else {
    CLI_ASSIGN_OR_RETURN(TensorInfo copy, CopyOne(*client, from, to, args.Has("if-absent")));
    copies.push_back(std::move(copy));
  }
  if (invocation.json()) {
    Json json = Json::array();
    for (const TensorInfo& copy : copies) json.push_back(TensorJson(copy));
    invocation.PrintJson(json);
    return absl::OkStatus();
  }
  for (const TensorInfo& copy : copies) invocation.Print(StrCat(TensorLine(copy), "\n"));
  return absl::OkStatus();
}

}  // namespace

const Verb kCp = {
    .name = "cp",
    .arguments = "SRC DST",
    .min_arguments = 2,
    .max_arguments = 2,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "copy tensors inside the store",
    .details =
        "Copies the present version of SRC to a new version of DST, with its metadata, class "
        "and remaining time to live.",
    .json = "an array of the copies, each as `ls -o json` shows it",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
