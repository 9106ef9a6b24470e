// The members of a ZIP archive in memory, checked as the work of an enemy.
//
// Only what .npz needs: stored and deflated members, zip64. The central directory is what counts;
// local headers must agree with it. Members may not overlap, so that no bytes are unpacked twice.
//
// Threading:  parse on one thread; then any thread reads.
// Ownership:  looks at the caller's bytes, which must outlive it.
// Errors:     INVALID_ARGUMENT that names the member and the field; DATA_LOSS for a wrong checksum;
//             RESOURCE_EXHAUSTED for no memory.
// Limits:     no encryption, no other method, one disk; memory in proportion to the number of
// members.
#ifndef PENSTOCK_CLIENT_FILES_ZIP_ARCHIVE_H_
#define PENSTOCK_CLIENT_FILES_ZIP_ARCHIVE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

struct ZipMember {
  std::string name;
  bool deflated = false;
  uint32_t crc32 = 0;
  uint64_t size_bytes = 0;  // unpacked, as the directory says
  absl::Span<const std::byte> packed;
};

class ZipArchive {
 public:
  static absl::StatusOr<ZipArchive> Parse(absl::Span<const std::byte> bytes);

  absl::Span<const ZipMember> members() const { return members_; }

 private:
  ZipArchive() = default;

  std::vector<ZipMember> members_;
};

// OK if the packed bytes of a stored member have its checksum.
absl::Status CheckStored(const ZipMember& member);

// The unpacked bytes of a deflated member, `member.size_bytes` of them. The caller has decided that
// so much memory may be used.
absl::StatusOr<std::unique_ptr<std::byte[]>> Inflate(const ZipMember& member);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_ZIP_ARCHIVE_H_
