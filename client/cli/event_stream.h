// Printing a store's events as they come: what `watch` and `events` share.
//
// Threading:  one thread.
// Ownership:  borrows the invocation.
// Errors:     those of the watch; an interrupt (Ctrl-C) ends it with OK.
// Limits:     one line per event, written out at once.
#ifndef PENSTOCK_CLIENT_CLI_EVENT_STREAM_H_
#define PENSTOCK_CLIENT_CLI_EVENT_STREAM_H_

#include <penstock/client.h>

#include "absl/status/status.h"
#include "client/cli/flags.h"
#include "client/cli/invocation.h"

namespace penstock::cli {

inline constexpr FlagSpec kCountFlag = {
    .name = "count", .letter = 'n', .value = "N", .help = "end after N events [default: never]"};
inline constexpr FlagSpec kAfterFlag = {
    .name = "after",
    .value = "SEQUENCE",
    .help = "events after this one, as far back as the node remembers"};

struct EventStreamOptions {
  WatchOptions watch;
  bool follow = true;  // false: ends when there is nothing more
};

// Reads --count and --after from the invocation.
absl::Status PrintEvents(Invocation& invocation, EventStreamOptions options);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_EVENT_STREAM_H_
