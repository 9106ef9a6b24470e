// Parts of tensors: checked, and as runs of bytes.
//
// Threading:  functions
// Ownership:  none
// Errors:     INVALID_ARGUMENT that names the field
// Limits:     dtypes of whole bytes
#ifndef PENSTOCK_CLIENT_PART_H_
#define PENSTOCK_CLIENT_PART_H_

#include <penstock/client.h>

#include <optional>

#include "absl/status/status.h"
#include "transport/lane/byte_runs.h"

namespace penstock::client {

// OK if each of its elements lies in the tensor.
absl::Status CheckPart(const Part& part, DType dtype, const Shape& shape);
// The box is valid in the shape.
Part PartOf(const Box& box, DType dtype, const Shape& shape);
// What `options` ask for of such a tensor; nothing: all of it.
absl::StatusOr<std::optional<Part>> PartOf(const GetOptions& options, DType dtype, const Shape& shape);
// The bytes of a part that was checked, in C order. False when it goes backwards, which only a mapping can.
bool RunsOf(const Part& part, DType dtype, ByteRuns* runs);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_PART_H_
