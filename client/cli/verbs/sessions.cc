// penstock sessions: who is connected, and what each holds.
#include "client/cli/describe.h"
#include "client/cli/invocation.h"
#include "client/cli/returning.h"
#include "client/cli/session_rows.h"
#include "client/cli/verbs/verbs.h"
#include "store.pb.h"

namespace penstock::cli {
namespace {

constexpr Example kExamples[] = {
    {"penstock sessions", "one row a session; HELD BACK is deleted memory that its pins keep"},
};

absl::Status Run(Invocation& invocation) {
  CLI_ASSIGN_OR_RETURN(
      const v1::SessionsResponse sessions,
      invocation.Call<v1::SessionsResponse>(rpc::Method::kSessions, v1::SessionsRequest()));
  if (!invocation.json()) {
    SessionTable(sessions, nullptr).Print();
    return absl::OkStatus();
  }
  Json json = Json::array();
  for (const v1::SessionInfo& session : sessions.sessions()) json.push_back(MessageJson(session));
  invocation.PrintJson(json);
  return absl::OkStatus();
}

}  // namespace

const Verb kSessions = {
    .name = "sessions",
    .summary = "show who is connected",
    .details =
        "Shows every session: its process, pins (views that are open), drafts, extents (memory "
        "that it writes), bytes that were deleted and stay because it still reads them, and its "
        "requests. This call's own session is among them.",
    .json =
        "an array of objects with the fields of SessionInfo in store.proto: id, pid, uid, label, "
        "pins, drafts, extent_bytes, pinned_retired_bytes, opened_ns, requests",
    .examples = kExamples,
    .run = Run,
};

}  // namespace penstock::cli
