// penstock events: what the node remembers of its tensors, sessions and warnings.
#include "client/cli/event_stream.h"
#include "client/cli/verbs/verbs.h"

namespace penstock::cli {
namespace {

constexpr FlagSpec kFlags[] = {
    {.name = "follow", .letter = 'f', .help = "go on with what happens, until Ctrl-C"},
    kCountFlag,
    kAfterFlag,
};

constexpr Example kExamples[] = {
    {"penstock events", "what the node remembers, the oldest first"},
    {"penstock events -f -o json", "and everything that happens from here on, as JSON lines"},
};

absl::Status Run(Invocation& invocation) {
  EventStreamOptions options;
  options.watch.tensors_only = false;
  options.watch.from_start = !invocation.args().Has("after");
  options.follow = invocation.args().Has("follow");
  return PrintEvents(invocation, options);
}

}  // namespace

const Verb kEvents = {
    .name = "events",
    .summary = "print the node's events: tensors, sessions, warnings",
    .details =
        "Prints the node's own log of events: puts and deletes, sessions that were cut off, "
        "starts of the node, warnings. It remembers the last ones only.",
    .json = "as `penstock watch -o json`",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
