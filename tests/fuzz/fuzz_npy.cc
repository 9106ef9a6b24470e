// Any bytes as a .npy file: refused, or an array with the bytes of its shape, which is written as
// it was read.
#include "client/files/npy.h"
#include "client/files/npy_header.h"
#include "proto/strcat.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  const auto array = NpyArray::Parse(FuzzBytes(data, size));
  if (!array.ok()) {
    FUZZ_CHECK(array.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  FUZZ_CHECK(ByteSize(array->dtype(), array->shape()).value() == array->data().size());
  Touch(array->data());
  const auto header = FormatNpyHeader(array->dtype(), array->shape());
  FUZZ_CHECK(header.ok());
  const auto again =
      ParseNpyHeader(FuzzBytes(reinterpret_cast<const uint8_t*>(header->data()), header->size()));
  FUZZ_CHECK(again.ok() && again->dtype == array->dtype() && again->shape == array->shape());
  FUZZ_CHECK(again->header_bytes == header->size() && header->size() % 64 == 0);
  return 0;
}
