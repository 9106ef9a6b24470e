// Where imported tensors come from: a safetensors file, a Hugging Face directory, a .npy or a .npz
// file, seen as one list.
//
// Threading:  Open on one thread; then Load from any thread.
// Ownership:  what Load gives lies in the source's mapped files (or owns its bytes) and must not
// outlive the source.
// Errors:     NOT_FOUND (no such path), INVALID_ARGUMENT (no known kind of file, a file that is not
// sound), DATA_LOSS (a checksum of a .npz).
// Limits:     nothing is read before Load, but headers.
#ifndef PENSTOCK_CLIENT_CLI_IMPORT_SOURCE_H_
#define PENSTOCK_CLIENT_CLI_IMPORT_SOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/files/file_tensor.h"
#include "client/files/npy.h"

namespace penstock::cli {

struct LoadedTensor {
  FileTensor tensor;
  std::optional<NpyArray> owner;  // of unpacked bytes
};

class ImportSource {
 public:
  // By what `path` is: a directory, or a file ending in .safetensors, .npy or .npz.
  static absl::StatusOr<std::unique_ptr<ImportSource>> Open(const std::string& path);

  virtual ~ImportSource() = default;

  virtual size_t size() const = 0;
  virtual const std::string& name(size_t i) const = 0;
  // What a .npz holds is known only after Load: there it is the mean of its members in the file.
  virtual uint64_t nbytes(size_t i) const = 0;
  virtual absl::StatusOr<LoadedTensor> Load(size_t i) const = 0;
  // Of the file that tensor `i` is in, for its metadata (FileIdentity); empty: none is kept.
  virtual std::string identity(size_t i) const = 0;

  const FileMetadata& metadata() const { return metadata_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 protected:
  FileMetadata metadata_;
  std::vector<std::string> warnings_;
};

}  // namespace penstock::cli

#endif  // PENSTOCK_CLIENT_CLI_IMPORT_SOURCE_H_
