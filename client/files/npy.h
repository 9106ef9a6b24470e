// Arrays in .npy files.
//
//   auto array = NpyArray::Open("x.npy");
//   Use(array->dtype(), array->shape(), array->data());
//
// Threading:  open on one thread; then any thread reads.
// Ownership:  an array owns its bytes (Open, Adopt) or looks at the caller's (Parse).
// Errors:     the system's; INVALID_ARGUMENT that names the field, also for data that is too short
// or too long. Limits:     C order lies where the file has it; Fortran order is copied into C
// order. Nobody may shorten the
//             file meanwhile (MappedFile).
#ifndef PENSTOCK_CLIENT_FILES_NPY_H_
#define PENSTOCK_CLIENT_FILES_NPY_H_

#include <penstock/dtype.h>
#include <penstock/shape.h>

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/files/mapped_file.h"

namespace penstock {

class NpyArray {
 public:
  static absl::StatusOr<NpyArray> Open(const std::string& path);

  // A whole .npy file in memory, which must outlive the array.
  static absl::StatusOr<NpyArray> Parse(absl::Span<const std::byte> bytes);

  // The same, and the array keeps the buffer.
  static absl::StatusOr<NpyArray> Adopt(std::unique_ptr<std::byte[]> buffer, size_t size);

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  absl::Span<const std::byte> data() const { return data_; }

 private:
  NpyArray() = default;

  DType dtype_ = DType::kInvalid;
  Shape shape_;
  absl::Span<const std::byte> data_;
  MappedFile file_;
  std::unique_ptr<std::byte[]> buffer_;
};

// Version 1, C order; appears whole or not at all. `data` has the bytes of the shape.
absl::Status WriteNpy(const std::string& path, DType dtype, const Shape& shape,
                      absl::Span<const std::byte> data);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_NPY_H_
