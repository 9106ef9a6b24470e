// The header of a .npy file: read strictly, written as NumPy writes it.
//
// Format: NEP 1 (numpy/lib/format.py), versions 1, 2 and 3. The header is a Python literal; only
// the one form that it can have is read: a dict with descr, fortran_order and shape, each once.
//
// Threading:  any thread; no state.
// Ownership:  results own what they hold.
// Errors:     INVALID_ARGUMENT that names the field: no .npy, structured or object dtypes,
// big-endian. Limits:     headers up to 64 KiB.
#ifndef PENSTOCK_CLIENT_FILES_NPY_HEADER_H_
#define PENSTOCK_CLIENT_FILES_NPY_HEADER_H_

#include <penstock/dtype.h>
#include <penstock/shape.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace penstock {

struct NpyHeader {
  DType dtype = DType::kInvalid;
  Shape shape;
  bool fortran_order = false;
  size_t header_bytes = 0;  // magic and all: where the data begins
  uint64_t data_bytes = 0;
};

// `bytes` begins a .npy file and holds at least the header.
absl::StatusOr<NpyHeader> ParseNpyHeader(absl::Span<const std::byte> bytes);

// The dict alone; sets dtype, shape and fortran_order.
absl::StatusOr<NpyHeader> ParseNpyDict(std::string_view text);

// Version 1, C order, padded to 64 bytes. INVALID_ARGUMENT for a dtype that .npy has no name for.
absl::StatusOr<std::string> FormatNpyHeader(DType dtype, const Shape& shape);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_NPY_HEADER_H_
