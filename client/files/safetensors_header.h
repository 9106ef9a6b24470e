// The JSON header of a safetensors file, parsed and checked as the work of an enemy.
//
// Format: https://github.com/huggingface/safetensors (README, "Format"). Stricter than a JSON
// parser: a name or field that comes twice is an error, as are fields that the format does not
// have.
//
// Threading:  any thread; no state.
// Ownership:  the result owns its text.
// Errors:     INVALID_ARGUMENT that names the tensor and the field.
// Limits:     headers up to kMaxSafetensorsHeaderBytes; memory in proportion to the header.
#ifndef PENSTOCK_CLIENT_FILES_SAFETENSORS_HEADER_H_
#define PENSTOCK_CLIENT_FILES_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/files/file_tensor.h"

namespace penstock {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsEntry {
  TensorSpec spec;
  uint64_t begin = 0;  // offsets from the start of the buffer
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry>
      entries;  // by offset; they cover the buffer without holes or overlaps
  FileMetadata metadata;
  bool has_metadata = false;  // false: not even an empty `__metadata__`
};

// `json` is the header's text; the buffer that follows it in the file has `buffer_bytes`.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json,
                                                         uint64_t buffer_bytes);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_SAFETENSORS_HEADER_H_
