// penstock watch: what happens to tensors under a prefix, as it happens.
#include "client/cli/event_stream.h"
#include "client/cli/verbs/verbs.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    kCountFlag,
    kAfterFlag,
    {.name = "from-start", .help = "first what the node still remembers"},
};

constexpr Example kExamples[] = {
    {"penstock watch model/", "puts, deletes, expiries and evictions under model/, until Ctrl-C"},
    {"penstock watch -n 1 ckpt/latest", "waits for the next event of one name"},
};

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  EventStreamOptions options;
  options.watch.prefix = args.positional().empty() ? "" : args.positional()[0];
  options.watch.from_start = args.Has("from-start");
  return PrintEvents(invocation, options);
}

}  // namespace

const Verb kWatch = {
    .name = "watch",
    .arguments = "[PREFIX]",
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kTensorName,
    .summary = "print what happens to tensors",
    .details =
        "Prints one line for each put, delete, expiry and eviction of a name that begins with "
        "PREFIX. A `resync` line says that events were lost (a reader that was too slow, or a "
        "node that was started again).",
    .json =
        "one object per line: kind (put|delete|expire|evict|node|session|warning|resync), "
        "sequence, time, name, version, text, info (a tensor as in `ls`, for puts; else null)",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
