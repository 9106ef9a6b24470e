// How tensors, events and messages look: as JSON (the stable form) and as cells of a table.
//
// JSON of a tensor: {"name", "version", "term", "dtype", "shape": [...], "nbytes", "created",
// "keep", "soft_pin", "spilled", "expires": null or a time, "replicas", "nodes": [...], "metadata": {...}, "immutable"}.
// Times are RFC 3339 in UTC. These names are part of the interface; tests hold them.
//
// Threading:  any thread; no state.
// Ownership:  returns values.
// Errors:     none.
// Limits:     none.
#ifndef PENSTOCK_CLIENT_CLI_DESCRIBE_H_
#define PENSTOCK_CLIENT_CLI_DESCRIBE_H_

#include <penstock/client.h>

#include <string>

#include "absl/time/time.h"
#include "client/cli/invocation.h"

namespace google::protobuf {
class Message;
}

namespace penstock::cli {

std::string TimeText(absl::Time time);       // "2026-11-25T22:54:05.123456789Z"
std::string ShortTimeText(absl::Time time);  // local, to the second
std::string VersionText(Version version);    // "3"; "2.3" with a term
std::string AgeText(absl::Duration age);     // "3s", "12m", "5h", "3d"
std::string ClassWord(const TensorInfo& info);  // "keep", "spilled", "cache", "cache+pin"
std::string ClassText(const TensorInfo& info);  // the same for people

std::string Crc32cText(uint32_t crc32c);  // 8 hexadecimal digits
Json TensorJson(const TensorInfo& info);
Json EventJson(const TensorEvent& event);

// "model/wte  version 3  f32 (50257, 768)  147MiB"
std::string TensorLine(const TensorInfo& info);

// Every field under its name in store.proto, 64-bit numbers as numbers.
Json MessageJson(const google::protobuf::Message& message);

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_DESCRIBE_H_
