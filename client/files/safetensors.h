// A safetensors file, mapped: its tensors lie where the file has them.
//
//   auto file = SafetensorsFile::Open("model.safetensors");
//   for (const FileTensor& tensor : file->tensors()) Use(tensor.name, tensor.data);
//
// Threading:  open on one thread; then any thread reads.
// Ownership:  the tensors' bytes belong to this object (Open) or to the caller (Parse).
// Errors:     Open: the system's; INVALID_ARGUMENT that names file, tensor and field for what is no
// sound file. Limits:     nobody may shorten the file while it is open (MappedFile). Only the
// header is read by Open.
#ifndef PENSTOCK_CLIENT_FILES_SAFETENSORS_H_
#define PENSTOCK_CLIENT_FILES_SAFETENSORS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/files/file_tensor.h"
#include "client/files/mapped_file.h"

namespace penstock {

class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  // The same for a file's bytes in memory, which must outlive the result.
  static absl::StatusOr<SafetensorsFile> Parse(absl::Span<const std::byte> bytes);

  // In the order of the file, so that one pass over them reads the file from front to back.
  absl::Span<const FileTensor> tensors() const { return tensors_; }

  // The file's own `__metadata__`.
  const FileMetadata& metadata() const { return metadata_; }

  // Of the file that was opened (FileIdentity); empty for bytes in memory.
  const std::string& identity() const { return file_.identity(); }

  // Whether the file has one, empty or not.
  bool has_metadata() const { return has_metadata_; }

 private:
  SafetensorsFile() = default;

  MappedFile file_;
  std::vector<FileTensor> tensors_;
  FileMetadata metadata_;
  bool has_metadata_ = false;
};

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_SAFETENSORS_H_
