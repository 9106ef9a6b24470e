// How the directory's messages travel: a Message to and from the bytes of proto/directory.proto's DirectoryMessage.
//
//   std::string bytes = Encode(Recall{run, name});
//   absl::StatusOr<Message> message = Decode(bytes, config.partition_count);
//
// The state machines of server/directory take what Decode lets through without another look: partitions index their tables, and
// names and enumerations are what they should be.
//
// Threading:  any thread; no state
// Ownership:  values
// Errors:     Decode: INVALID_ARGUMENT with the kind and the field, as "push.entries[3].holders: ..."; UNIMPLEMENTED a kind that this
//             node does not know. Fields that it does not know are passed over.
// Limits:     below. Who lists must cut so that a message stays below kMaxMessageBytes (512 entries always do). A small message takes
//             about 0.3 us either way, an entry of a list 0.5 us
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/directory/directory_messages.h"

namespace penstock::server::directory {

inline constexpr size_t kMaxMessageBytes = size_t{32} << 20;
inline constexpr size_t kMaxHolders = 4096;       // of one name
inline constexpr size_t kMaxListed = 65536;       // entries, records, questions, names of one message
inline constexpr size_t kMaxInfoBytes = 32 * 1024;  // what the store keeps with a name: shape, and metadata of at most 16 KiB

std::string Encode(const Message& message);
absl::StatusOr<Message> Decode(std::string_view bytes, uint32_t partition_count);

// Lists entries or records: it may be large, and nobody waits for it alone.
bool IsBulk(const Message& message);

}  // namespace penstock::server::directory
