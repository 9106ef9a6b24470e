// Any bytes as a .npz file: refused, or members that are arrays or errors, within the limit of
// memory.
#include "client/files/npz.h"
#include "proto/names.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  constexpr uint64_t kLimit = 1 << 20;
  const auto file = NpzFile::Parse(FuzzBytes(data, size), {.max_inflated_bytes = kLimit});
  if (!file.ok()) return 0;
  for (size_t i = 0; i < file->size(); ++i) {
    FUZZ_CHECK(ValidateName(file->name(i)).ok());
    const auto array = file->Read(i);
    if (!array.ok()) continue;
    FUZZ_CHECK(ByteSize(array->dtype(), array->shape()).value() == array->data().size());
    FUZZ_CHECK(array->data().size() <= size + kLimit);
    Touch(array->data());
  }
  return 0;
}
