// Writes a safetensors file, tensor by tensor, byte for byte as the original writer does.
//
//   auto writer = SafetensorsWriter::Create(path, specs, {{"format", "pt"}});
//   for (size_t i : writer->order()) writer->Append(BytesOf(specs[i]));
//   writer->Finish();
//
// Streaming, so that an export holds one tensor at a time. The file appears at Finish, whole or not
// at all.
//
// Threading:  one thread at a time.
// Ownership:  keeps its own copy of the header only; bytes are written before Append returns.
// Errors:     INVALID_ARGUMENT: names, dtypes (c128 has no place in the format), twice the same
// name, wrong
//             sizes; the system's. After an error only destruction is allowed.
// Limits:     the header has at most 100,000,000 bytes.
#ifndef PENSTOCK_CLIENT_FILES_SAFETENSORS_WRITER_H_
#define PENSTOCK_CLIENT_FILES_SAFETENSORS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/files/atomic_file.h"
#include "client/files/file_tensor.h"

namespace penstock {

// A file before its tensors' bytes are there.
struct SafetensorsPlan {
  std::string head;            // length and header: what the file begins with
  std::vector<size_t> order;   // indices into the specs, as their bytes follow
  uint64_t buffer_bytes = 0;   // of all tensors
};

// `metadata`: null leaves it out, an empty one is written as empty, as the original does.
absl::StatusOr<SafetensorsPlan> PlanSafetensors(absl::Span<const TensorSpec> specs,
                                                const FileMetadata* metadata);

class SafetensorsWriter {
 public:
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path,
                                                  absl::Span<const TensorSpec> specs,
                                                  const FileMetadata& metadata = {});
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path, SafetensorsPlan plan);

  // Indices into `specs`, in the order in which Append wants the tensors: by falling alignment of
  // the dtype, then by name.
  absl::Span<const size_t> order() const { return order_; }

  // The next bytes; a tensor may come in pieces.
  absl::Status Append(absl::Span<const std::byte> bytes);

  // Once, when all bytes are there.
  absl::Status Finish();

 private:
  SafetensorsWriter(AtomicFile file, std::vector<size_t> order, uint64_t total_bytes);

  AtomicFile file_;
  std::vector<size_t> order_;
  uint64_t total_bytes_;  // of the whole file
};

// All at once.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const FileTensor> tensors,
                              const FileMetadata& metadata = {});

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_SAFETENSORS_WRITER_H_
