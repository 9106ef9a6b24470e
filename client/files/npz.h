// .npz files: ZIP archives of .npy members, as np.savez and np.savez_compressed make them.
//
//   auto file = NpzFile::Open("arrays.npz");
//   for (size_t i = 0; i < file->size(); ++i) { auto array = file->Read(i); ... }
//
// Threading:  open on one thread; then any thread reads.
// Ownership:  the file owns its mapping; stored arrays lie in it and must not outlive it, deflated
// ones own
//             their bytes. With Parse the caller's bytes take the mapping's place.
// Errors:     INVALID_ARGUMENT that names file and member; DATA_LOSS for a wrong checksum;
// RESOURCE_EXHAUSTED
//             above max_inflated_bytes.
// Limits:     a deflated member is unpacked into memory; all of them may not have more than
// max_inflated_bytes.
#ifndef PENSTOCK_CLIENT_FILES_NPZ_H_
#define PENSTOCK_CLIENT_FILES_NPZ_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/files/mapped_file.h"
#include "client/files/npy.h"
#include "client/files/zip_archive.h"

namespace penstock {

struct NpzOptions {
  // What the deflated members of one file may have together, unpacked.
  uint64_t max_inflated_bytes = uint64_t{16} << 30;
};

class NpzFile {
 public:
  static absl::StatusOr<NpzFile> Open(const std::string& path, const NpzOptions& options = {});
  static absl::StatusOr<NpzFile> Parse(absl::Span<const std::byte> bytes,
                                       const NpzOptions& options = {});

  size_t size() const { return names_.size(); }

  // Without ".npy"; a valid tensor name. `i` is in [0, size).
  const std::string& name(size_t i) const { return names_[i]; }

  // Reads, checks the checksum, unpacks. `i` is in [0, size).
  absl::StatusOr<NpyArray> Read(size_t i) const;

 private:
  explicit NpzFile(ZipArchive archive) : archive_(std::move(archive)) {}

  MappedFile file_;
  ZipArchive archive_;
  std::vector<std::string> names_;  // of the archive's members, in their order
};

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_NPZ_H_
