// A checkpoint of several safetensors files: a Hugging Face directory, with or without an index.
//
//   auto checkpoint = ShardedDirectory::Open("Llama-3/");
//   for (const ShardTensor& t : checkpoint->tensors()) Use(t.tensor->name, t.tensor->data);
//
// With an index (model.safetensors.index.json, or the only *.safetensors.index.json) its weight_map
// decides which tensor comes from which file. Without one, all *.safetensors files of the directory
// count.
//
// Threading:  open on one thread; then any thread reads.
// Ownership:  owns the mapped files; tensors lie in them.
// Errors:     NOT_FOUND: no such directory, or nothing in it; INVALID_ARGUMENT that names file and
// tensor: a tensor
//             missing from its file or in two files, an unsound file, a path that leaves the
//             directory.
// Limits:     the index's paths may not leave the directory by their text; symbolic links are
// followed (the
//             Hugging Face cache is made of them). All files stay mapped while it lives.
#ifndef PENSTOCK_CLIENT_FILES_SHARDED_DIRECTORY_H_
#define PENSTOCK_CLIENT_FILES_SHARDED_DIRECTORY_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/files/file_tensor.h"
#include "client/files/safetensors.h"
#include "client/files/sharded_index.h"

namespace penstock {

struct ShardTensor {
  const FileTensor* tensor;
  size_t shard;  // index into shards()
};

class ShardedDirectory {
 public:
  static absl::StatusOr<ShardedDirectory> Open(const std::string& directory);

  // By shard, and in the order of each file.
  absl::Span<const ShardTensor> tensors() const { return tensors_; }

  // Paths relative to the directory, sorted.
  absl::Span<const std::string> shards() const { return shards_; }

  // Of each of shards(), in their order (FileIdentity).
  const std::string& identity(size_t shard) const { return files_[shard].identity(); }

  // The metadata of all files; where they differ, the first file's.
  const FileMetadata& metadata() const { return metadata_; }

  // Tensors that lie in a shard but not in the index: not among tensors(), worth a warning.
  absl::Span<const std::string> unlisted() const { return unlisted_; }

 private:
  ShardedDirectory() = default;

  absl::Status OpenShards(const std::string& directory);
  absl::Status TakeListed(const WeightMap& weight_map);
  absl::Status TakeAll();

  std::vector<std::string> shards_;
  std::vector<SafetensorsFile> files_;  // of shards_, in the same order; never changes after Open
  std::vector<ShardTensor> tensors_;
  std::vector<std::string> unlisted_;
  FileMetadata metadata_;
};

}  // namespace penstock

#endif  // PENSTOCK_CLIENT_FILES_SHARDED_DIRECTORY_H_
