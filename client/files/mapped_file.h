// A file's bytes, mapped read-only.
//
// Threading:  open on one thread; then any thread reads.
// Ownership:  owns the mapping; the descriptor is closed before Open returns. Spans die with the
// object. Errors:     NOT_FOUND, PERMISSION_DENIED, ... of the system; INVALID_ARGUMENT for what is
// no regular file. Limits:     nobody may shorten the file while it is mapped: reading past the new
// end is a SIGBUS.
#ifndef PENSTOCK_CLIENT_FILES_MAPPED_FILE_H_
#define PENSTOCK_CLIENT_FILES_MAPPED_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

class MappedFile {
 public:
  // An empty file is an empty span.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::Span<const std::byte> bytes() const { return bytes_; }

  // Of the file as it was opened (FileIdentity).
  const std::string& identity() const { return identity_; }

 private:
  // `fd` is open on `path` and stays open.
  static absl::StatusOr<MappedFile> OfDescriptor(int fd, const std::string& path);

  absl::Span<const std::byte> bytes_;
  std::string identity_;
};

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_MAPPED_FILE_H_
