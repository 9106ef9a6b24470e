// The index of a sharded checkpoint: model.safetensors.index.json of Hugging Face.
//
// {"metadata": {...}, "weight_map": {"layer.0.weight": "model-00001-of-00002.safetensors", ...}}
//
// Threading:  any thread; no state.
// Ownership:  the result owns its text.
// Errors:     INVALID_ARGUMENT that names the entry: no JSON, a tensor twice, a file outside the
// directory. Limits:     at most 100,000,000 bytes. Metadata and fields that are not known are
// skipped, as others do.
#ifndef PENSTOCK_CLIENT_FILES_SHARDED_INDEX_H_
#define PENSTOCK_CLIENT_FILES_SHARDED_INDEX_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace penstock {

// Tensor name -> path of its file, relative to the directory of the index.
using WeightMap = std::map<std::string, std::string>;

absl::StatusOr<WeightMap> ParseShardedIndex(std::string_view json);

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_SHARDED_INDEX_H_
