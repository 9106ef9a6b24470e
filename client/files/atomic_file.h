// A file that appears whole or not at all: written under another name beside it, then synced and
// renamed.
//
//   auto file = AtomicFile::Create(path);
//   file->Write(bytes);
//   file->Commit();          // without it, nothing is left
//
// Threading:  one thread at a time.
// Ownership:  owns the descriptor and the temporary file until Commit.
// Errors:     errno's; RESOURCE_EXHAUSTED for a full disk. After an error only destruction is
// allowed. Limits:     a symbolic link is followed: its target is replaced. A path that exists and
// is no regular file
//             (a directory, /dev/null, a FIFO) is refused. A killed process leaves PATH.tmp-NUMBER
//             behind.
#ifndef PENSTOCK_CLIENT_FILES_ATOMIC_FILE_H_
#define PENSTOCK_CLIENT_FILES_ATOMIC_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

class AtomicFile {
 public:
  static absl::StatusOr<AtomicFile> Create(const std::string& path);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  absl::Status Write(absl::Span<const std::byte> bytes);
  absl::Status Write(std::string_view text);

  // Bytes written so far.
  uint64_t size_bytes() const { return size_bytes_; }

  // Syncs, renames, syncs the directory. At most once, and nothing after it.
  absl::Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary_path, int fd);

  std::string path_;
  std::string temporary_path_;
  int fd_;
  uint64_t size_bytes_ = 0;
};

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_ATOMIC_FILE_H_
