// penstock pins: which sessions keep which tensors from being reused.
#include <algorithm>

#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "limit", .value = "N", .fallback = "1000", .help = "at most N rows"},
};

constexpr Example kExamples[] = {
    {"penstock pins model/", "who reads tensors under model/ at this moment"},
    {"penstock pins -o json | jq '.[] | select(.retired)'", "readers of deleted tensors"},
};

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> limit, args.Number("limit"));
  v1::PinsRequest request;
  if (!args.positional().empty()) request.set_prefix(args.positional()[0]);
  request.set_limit(static_cast<uint32_t>(std::min<uint64_t>(*limit, UINT32_MAX)));
  CLI_ASSIGN_OR_RETURN(const v1::PinsResponse pins,
                       invocation.Call<v1::PinsResponse>(rpc::Method::kPins, request));
  if (invocation.json()) {
    Json json = Json::array();
    for (const v1::PinInfo& pin : pins.pins()) json.push_back(MessageJson(pin));
    invocation.PrintJson(json);
    return absl::OkStatus();
  }
  Table table({{"NAME"},
               {"VERSION", Table::Align::kRight},
               {"SESSION", Table::Align::kRight},
               {"PINS", Table::Align::kRight},
               {"SIZE", Table::Align::kRight},
               {"STATE"}});
  for (const v1::PinInfo& pin : pins.pins()) {
    table.Add({pin.name(), VersionText({pin.version().term(), pin.version().number()}),
               StrCat(pin.session()), StrCat(pin.count()), FormatSize(pin.nbytes()),
               pin.retired() ? "retired" : "live"});
  }
  table.Print();
  return absl::OkStatus();
}

}  // namespace

const Verb kPins = {
    .name = "pins",
    .arguments = "[PREFIX]",
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "show which tensors are being read, and by whom",
    .details =
        "Shows, for each session and version, how many pins (open views) there are. `retired` "
        "versions were deleted or replaced and stay only because they are pinned.",
    .json =
        "an array of objects with the fields of PinInfo in store.proto: session, name, version, "
        "nbytes, count, retired",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
