// A tensor as it lies in a file, and a tensor that is to be written into one.
//
// What readers give out and writers take, whatever the format.
//
// Threading:  plain values.
// Ownership:  the bytes belong to the reader that gave the tensor out, or to the caller of the
// writer. Errors:     none. Limits:     data is little endian, in C order without gaps, and has no
// promised alignment.
#ifndef PENSTOCK_CLIENT_FILES_FILE_TENSOR_H_
#define PENSTOCK_CLIENT_FILES_FILE_TENSOR_H_

#include <penstock/dtype.h>
#include <penstock/shape.h>

#include <cstddef>
#include <map>
#include <string>

#include "absl/types/span.h"

namespace penstock {

struct FileTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  Shape shape;
  absl::Span<const std::byte> data;
};

// What a writer has to know of a tensor before it sees the bytes.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kInvalid;
  Shape shape;
};

// Text that a file carries beside its tensors.
using FileMetadata = std::map<std::string, std::string>;

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_FILE_TENSOR_H_
