// Any bytes as a safetensors file: refused, or tensors that cover the buffer exactly.
#include "client/files/safetensors.h"
#include "proto/names.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  const auto file = SafetensorsFile::Parse(FuzzBytes(data, size));
  if (!file.ok()) {
    FUZZ_CHECK(file.status().code() == absl::StatusCode::kInvalidArgument);
    FUZZ_CHECK(!file.status().message().empty());
    return 0;
  }
  const auto* end = reinterpret_cast<const std::byte*>(data + size);
  size_t total = 0;
  for (const FileTensor& tensor : file->tensors()) {
    FUZZ_CHECK(ValidateName(tensor.name).ok());
    FUZZ_CHECK(ByteSize(tensor.dtype, tensor.shape).value() == tensor.data.size());
    total += tensor.data.size();
    Touch(tensor.data);
  }
  if (!file->tensors().empty()) {
    const auto& last = file->tensors().back().data;
    FUZZ_CHECK(last.data() + last.size() == end);
    FUZZ_CHECK(file->tensors().front().data.data() + total == end);
  }
  return 0;
}
