// Which state of a file was read: its path, size, time of change and inode, as one line of text.
//
// Kept as metadata with tensors that came from a file, so that whoever reads the same file later
// knows whether the store has it. Two processes agree if they see the file under one path.
//
// Threading:  any thread; no state.
// Ownership:  values.
// Errors:     FileIdentity: errno's, of stat and realpath.
// Limits:     a change within the clock tick of the last one, of the same size and inode, is not
//             seen. Valid UTF-8: bytes of paths that are not are written as %XX.
#ifndef PENSTOCK_CLIENT_FILES_FILE_IDENTITY_H_
#define PENSTOCK_CLIENT_FILES_FILE_IDENTITY_H_

#include <sys/stat.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace penstock {

// The key under which it stands in a tensor's metadata.
inline constexpr std::string_view kFileIdentityKey = "file.identity";

// "PATH:SIZE:NANOSECONDS:INODE" of the file that `path` is now, symbolic links resolved.
absl::StatusOr<std::string> FileIdentity(const std::string& path);

// The same of an open file, as fstat told it.
absl::StatusOr<std::string> FileIdentity(const std::string& path, const struct stat& info);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_FILE_IDENTITY_H_
