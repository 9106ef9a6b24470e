// penstock node: what an operator does with the node of this host.
#include "absl/time/clock.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/table.h"
#include "client/cli/verbs/verbs.h"
#include "proto/strcat.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr absl::Duration kLookAgain = absl::Milliseconds(2);

constexpr FlagSpec kFlags[] = {
    {.name = "no-wait", .help = "do not wait until the next process answers"},
};

constexpr Example kExamples[] = {
    {"penstock node restart", "another process in the place of this one; memory, sessions and views stay"},
    {"penstock node restart -o json | jq .version", "the version that runs now, after an upgrade"},
};

absl::StatusOr<v1::NodeInfoResponse> Look(Invocation& invocation) {
  return invocation.Call<v1::NodeInfoResponse>(rpc::Method::kNodeInfo, v1::NodeInfoRequest());
}

// The first answer of a later process.
absl::StatusOr<v1::NodeInfoResponse> AwaitNext(Invocation& invocation, uint64_t generation, absl::Time deadline) {
  while (true) {
    CLI_ASSIGN_OR_RETURN(v1::NodeInfoResponse node, Look(invocation));
    if (node.generation() > generation) return node;
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError(StrCat("restart: process ", node.pid(), " of generation ", generation, " still answers; see the node's log"));
    }
    absl::SleepFor(kLookAgain);
  }
}

absl::Status Restart(Invocation& invocation) {
  invocation.BePatient(kPatience);
  CLI_ASSIGN_OR_RETURN(const v1::NodeInfoResponse before, Look(invocation));
  v1::RestartNodeRequest request;
  request.set_generation(before.generation());
  const absl::Time start = absl::Now();
  CLI_ASSIGN_OR_RETURN(const v1::RestartNodeResponse granted, invocation.Call<v1::RestartNodeResponse>(rpc::Method::kRestartNode, request));
  Json json{{"old_pid", before.pid()}, {"old_generation", granted.generation()}, {"old_version", before.version()}};
  if (invocation.args().Has("no-wait")) {
    if (invocation.json()) {
      invocation.PrintJson(json);
    } else {
      invocation.Print(StrCat("process ", before.pid(), " makes room for the next one\n"));
    }
    return absl::OkStatus();
  }
  CLI_ASSIGN_OR_RETURN(const v1::NodeInfoResponse after, AwaitNext(invocation, granted.generation(), start + kPatience));
  const int64_t took_ns = absl::ToInt64Nanoseconds(absl::Now() - start);
  if (invocation.json()) {
    json.update({{"pid", after.pid()}, {"generation", after.generation()}, {"version", after.version()}, {"took_ns", took_ns}});
    invocation.PrintJson(json);
    return absl::OkStatus();
  }
  invocation.Print(StrCat("process ", before.pid(), " (generation ", before.generation(), ", version ", before.version(), ") -> ", after.pid(),
                          " (generation ", after.generation(), ", version ", after.version(), ") in ", took_ns / 1'000'000, " ms\n"));
  return absl::OkStatus();
}

absl::Status Run(Invocation& invocation) {
  const std::string& action = invocation.args().positional()[0];
  if (action == "restart") return Restart(invocation);
  return absl::InvalidArgumentError(StrCat("node: '", action, "' is not allowed; write restart"));
}

}  // namespace

const Verb kNode{
    .name = "node",
    .arguments = "restart",
    .min_arguments = 1,
    .max_arguments = 1,
    .argument_kind = ArgumentKind::kWord,
    .words = "restart",
    .summary = "restart the node of this host, warm",
    .details =
        "restart ends the node's process and lets its warden fork the next one, which runs the libpenstock_node.so that is on disk then: so "
        "after an upgrade the new code. Tensors, sessions and open views stay, requests that are under way are answered by the next "
        "process, and a cluster does not notice. A library that could not take over (another layout of memory, no node library) is refused "
        "first, and the process that runs goes on. Replace the library by renaming the new one over it, never by writing into it. "
        "penstockd itself goes on as it is.",
    .json = "restart: an object: old_pid, old_generation, old_version; without --no-wait also pid, generation, version, took_ns",
    .flags = kFlags,
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
