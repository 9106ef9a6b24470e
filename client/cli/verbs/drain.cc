// penstock drain: moves everything away from a node, so that it can be stopped.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "client/cli/verbs/verbs.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr absl::Duration kLookAgain = absl::Milliseconds(200);

constexpr FlagSpec kFlags[] = {
    {.name = "undo", .help = "the node keeps what it has, and gets new tensors again"},
    {.name = "no-wait", .help = "do not wait until the node is empty"},
};

constexpr Example kExamples[] = {
    {"penstock drain 0f5c...", "until the node has nothing that others need; then stop it"},
    {"penstock drain 0f5c... --undo", "it stays after all"},
};

absl::StatusOr<v1::DrainNodeResponse> Ask(Invocation& invocation, const std::string& node, bool look) {
  v1::DrainNodeRequest request;
  request.set_node_uuid(node);
  request.set_undo(invocation.args().Has("undo"));
  request.set_look(look);
  return invocation.Call<v1::DrainNodeResponse>(rpc::Method::kDrainNode, request);
}

absl::Status Run(Invocation& invocation) {
  const Args& args = invocation.args();
  const std::string& node = args.positional()[0];
  CLI_ASSIGN_OR_RETURN(v1::DrainNodeResponse state, Ask(invocation, node, /*look=*/false));
  const uint64_t term = state.term();
  if (!args.Has("undo") && !args.Has("no-wait") && state.tensors() > 0) {
    CatchInterrupts();
    const uint64_t at_first = state.bytes();
    uint64_t moved = 0;
    Progress progress("draining", at_first);
    while (state.tensors() > 0 && !Interrupted()) {
      WaitForInterrupt(kLookAgain);
      CLI_ASSIGN_OR_RETURN(state, Ask(invocation, node, /*look=*/true));
      const uint64_t now = at_first - std::min(at_first, state.bytes());
      if (now > moved) progress.Advance(now - moved);
      moved = std::max(moved, now);
    }
  }
  if (invocation.json()) {
    invocation.PrintJson(Json{{"node_uuid", node}, {"term", term}, {"tensors", state.tensors()}, {"bytes", state.bytes()}, {"pins", state.pins()}});
  } else if (!args.Has("undo")) {
    invocation.Print(state.tensors() == 0 ? StrCat("node ", node, " is drained; views that are open there: ", state.pins(), "\n")
                                          : StrCat("node ", node, " still has ", state.tensors(), " tensors, ", FormatSize(state.bytes()), "\n"));
  }
  return absl::OkStatus();
}

}  // namespace

const Verb kDrain{
    .name = "drain",
    .arguments = "NODE",
    .min_arguments = 1,
    .max_arguments = 1,
    .summary = "move everything away from a node of the cluster",
    .details =
        "Other nodes copy what NODE (its uuid, as `penstock nodes` shows it) has, and it lets go of each tensor when "
        "enough others have it; it gets no new ones. What its own clients put meanwhile goes the same way. Waits until it "
        "is empty, or Ctrl-C: the draining goes on without this command. With it the node can be stopped and nothing is "
        "lost.",
    .json = "an object: node_uuid, term, tensors and bytes that the node still has, pins (views that are open there)",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
