// The flags that verbs which write tensors share, and the PutOptions that they mean.
//
// Threading:  any thread; no state.
// Ownership:  the table is a constant.
// Errors:     INVALID_ARGUMENT that names the flag.
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_PUT_FLAGS_H_
#define PENSTOCK_CLIENT_CLI_PUT_FLAGS_H_

#include <penstock/client.h>

#include "absl/status/statusor.h"
#include "client/cli/flags.h"

namespace penstock::cli {

inline constexpr FlagSpec kKeepFlag = {
    .name = "keep", .help = "never evict (this is the default; --cache is the other)"};
inline constexpr FlagSpec kCacheFlag = {.name = "cache",
                                        .help = "the store may evict it when memory is short"};
inline constexpr FlagSpec kSoftPinFlag = {
    .name = "soft-pin", .help = "with --cache: evicted after all that have no soft pin"};
inline constexpr FlagSpec kTtlFlag = {
    .name = "ttl", .value = "TIME", .help = "delete it after TIME [default: never]"};
inline constexpr FlagSpec kIfAbsentFlag = {
    .name = "if-absent", .help = "only if there is no tensor of that name (else exit code 8)"};
inline constexpr FlagSpec kMetadataFlag = {.name = "metadata",
                                           .letter = 'm',
                                           .value = "KEY=VALUE",
                                           .help = "text kept with the tensor",
                                           .repeated = true};

// From those of the flags above that a verb has, and --version and --if-version.
absl::StatusOr<PutOptions> ReadPutOptions(const Args& args);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_PUT_FLAGS_H_
