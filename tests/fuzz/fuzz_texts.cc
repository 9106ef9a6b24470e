// Any text where users type: names, dtypes, boxes, sizes, durations.
#include <penstock/box.h>
#include <penstock/dtype.h>

#include <string_view>

#include "proto/names.h"
#include "proto/sizes.h"
#include "tests/fuzz/fuzz_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace penstock;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (ValidateName(text).ok()) {
    FUZZ_CHECK(IsValidUtf8(text) && ValidatePrefix(text).ok() && size <= kMaxNameBytes);
  }
  if (const auto dtype = ParseDType(text); dtype.ok()) FUZZ_CHECK(IsValid(*dtype));
  for (const Shape& shape : {Shape{}, Shape{10}, Shape{4, 0, 7}, Shape{3, 5, 2, 6}}) {
    const auto selection = ParseBox(text, shape);
    if (!selection.ok()) continue;
    FUZZ_CHECK(ValidateBox(selection->box, shape).ok());
    uint64_t bytes = 0;
    const uint64_t whole = ByteSize(DType::kU16, shape).value();
    ForEachRun(shape, selection->box, 2, [&](uint64_t offset, uint64_t length) {
      FUZZ_CHECK(offset <= whole && length <= whole - offset);
      bytes += length;
    });
    FUZZ_CHECK(bytes == ByteSize(DType::kU16, selection->result_shape()).value());
  }
  if (const auto part = ParseSize(text, 1000); part.ok() && text.back() == '%')
    FUZZ_CHECK(*part <= 1000);
  if (const auto duration = ParseDuration(text); duration.ok()) {
    FUZZ_CHECK(*duration >= absl::ZeroDuration());
  }
  return 0;
}
