// Writes a .npz file: .npy members, stored, as np.savez does.
//
//   auto writer = NpzWriter::Create("arrays.npz");
//   writer->Add("x", DType::kF32, shape, bytes);
//   writer->Finish();
//
// Threading:  one thread at a time.
// Ownership:  bytes are written before Add returns.
// Errors:     INVALID_ARGUMENT: names, the same name twice, dtypes without a name in .npy, wrong
// sizes; the
//             system's. After an error only destruction is allowed.
// Limits:     zip64 where needed; no compression. Each array is read twice: checksum, then copy.
// The same arrays
//             give the same file.
#ifndef PENSTOCK_CLIENT_FILES_NPZ_WRITER_H_
#define PENSTOCK_CLIENT_FILES_NPZ_WRITER_H_

#include <penstock/dtype.h>
#include <penstock/shape.h>

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/files/atomic_file.h"

namespace penstock {

class NpzWriter {
 public:
  static absl::StatusOr<NpzWriter> Create(const std::string& path);

  // The member is NAME.npy. `data` has the bytes of the shape.
  absl::Status Add(std::string_view name, DType dtype, const Shape& shape,
                   absl::Span<const std::byte> data);

  // Once, after the last Add.
  absl::Status Finish();

 private:
  explicit NpzWriter(AtomicFile file) : file_(std::move(file)) {}

  AtomicFile file_;
  std::string directory_;  // central directory so far
  std::set<std::string, std::less<>> names_;
};

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_NPZ_WRITER_H_
