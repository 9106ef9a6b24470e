// The central directory of a ZIP archive.
//
// Threading:  any thread; no state.
// Ownership:  entries own their text.
// Errors:     INVALID_ARGUMENT that names what is wrong; encrypted members, several disks and
// methods
//             other than stored and deflated are refused here.
// Limits:     offsets of entries are not yet checked against the file: ZipArchive does that.
#ifndef PENSTOCK_CLIENT_FILES_ZIP_DIRECTORY_H_
#define PENSTOCK_CLIENT_FILES_ZIP_DIRECTORY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock::zip {

struct Entry {
  std::string name;
  uint16_t method = 0;
  uint32_t crc32 = 0;
  uint64_t packed_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t local_offset = 0;
};

struct Directory {
  uint64_t offset = 0;  // members lie before it
  std::vector<Entry> entries;
};

absl::StatusOr<Directory> ReadDirectory(absl::Span<const std::byte> bytes);

}  // namespace penstock::zip

#endif  // PENSTOCK_CLIENT_FILES_ZIP_DIRECTORY_H_
