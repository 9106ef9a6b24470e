#include "client/cli/event_stream.h"

#include <cstdio>

#include "client/cli/describe.h"
#include "client/cli/returning.h"
#include "client/cli/terminal.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

// Long enough to cost nothing, short enough that Ctrl-C feels immediate.
constexpr absl::Duration kSlice = absl::Milliseconds(200);
constexpr absl::Duration kDrain = absl::Milliseconds(100);

std::string EventLine(const TensorEvent& event) {
  std::string line = StrCat(ShortTimeText(event.time), "  ", EventKindName(event.kind));
  line.resize(std::max(line.size(), size_t{28}), ' ');
  StrAppend(&line, "  ");
  if (event.kind == TensorEvent::Kind::kPut) {
    StrAppend(&line, TensorLine(event.info));
  } else if (!event.info.name.empty()) {
    StrAppend(&line, event.info.name, "  version ", VersionText(event.info.version));
  }
  if (!event.text.empty()) StrAppend(&line, event.info.name.empty() ? "" : "  ", event.text);
  if (event.kind == TensorEvent::Kind::kResync) {
    line += Styled(Style::kWarn, "events were lost here: list again to be up to date");
  }
  return line;
}

}  // namespace

absl::Status PrintEvents(Invocation& invocation, EventStreamOptions options) {
  CLI_ASSIGN_OR_RETURN(const std::optional<uint64_t> count, invocation.args().Number("count"));
  CLI_ASSIGN_OR_RETURN(options.watch.after_sequence, invocation.args().Number("after"));
  CLI_ASSIGN_OR_RETURN(Client* const client, invocation.Connect());
  CLI_ASSIGN_OR_RETURN(const std::unique_ptr<Watcher> watcher, client->Watch(options.watch));
  CatchInterrupts();
  uint64_t left = count.value_or(UINT64_MAX);
  while (left > 0 && !Interrupted()) {
    CLI_ASSIGN_OR_RETURN(const std::vector<TensorEvent> events,
                         watcher->Next(options.follow ? kSlice : kDrain));
    if (events.empty() && !options.follow) break;
    for (const TensorEvent& event : events) {
      if (left == 0) break;
      --left;
      if (invocation.json()) {
        invocation.PrintJson(EventJson(event));
      } else {
        invocation.Print(StrCat(EventLine(event), "\n"));
      }
    }
    // A reader at the other end of a pipe sees each event when it happens.
    if (std::fflush(stdout) != 0) break;
  }
  return absl::OkStatus();
}

}  // namespace penstock::cli
