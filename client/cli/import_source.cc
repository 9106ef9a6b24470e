#include "client/cli/import_source.h"

#include <algorithm>
#include <filesystem>

#include "client/cli/returning.h"
#include "client/files/npz.h"
#include "client/files/safetensors.h"
#include "client/files/sharded_directory.h"
#include "proto/strcat.h"

namespace penstock::cli {
namespace {

// Tensors that lie in mapped files: safetensors, alone or in a directory.
class MappedSource : public ImportSource {
 public:
  explicit MappedSource(SafetensorsFile file) : file_(std::move(file)) {
    metadata_ = file_->metadata();
    for (const FileTensor& tensor : file_->tensors()) tensors_.push_back(&tensor);
  }
  explicit MappedSource(ShardedDirectory directory) : directory_(std::move(directory)) {
    metadata_ = directory_->metadata();
    for (const ShardTensor& item : directory_->tensors()) tensors_.push_back(item.tensor);
    for (const std::string& name : directory_->unlisted()) {
      warnings_.push_back(StrCat("'", name, "' lies in a shard but not in the index: left out"));
    }
  }

  size_t size() const override { return tensors_.size(); }
  const std::string& name(size_t i) const override { return tensors_[i]->name; }
  uint64_t nbytes(size_t i) const override { return tensors_[i]->data.size(); }
  absl::StatusOr<LoadedTensor> Load(size_t i) const override {
    return LoadedTensor{*tensors_[i], std::nullopt};
  }
  std::string identity(size_t i) const override {
    return file_.has_value() ? file_->identity() : directory_->identity(directory_->tensors()[i].shard);
  }

 private:
  std::optional<SafetensorsFile> file_;
  std::optional<ShardedDirectory> directory_;
  std::vector<const FileTensor*> tensors_;
};

class NpySource : public ImportSource {
 public:
  NpySource(std::string name, NpyArray array) : name_(std::move(name)), array_(std::move(array)) {}

  size_t size() const override { return 1; }
  const std::string& name(size_t) const override { return name_; }
  uint64_t nbytes(size_t) const override { return array_.data().size(); }
  absl::StatusOr<LoadedTensor> Load(size_t) const override {
    return LoadedTensor{{name_, array_.dtype(), array_.shape(), array_.data()}, std::nullopt};
  }
  std::string identity(size_t) const override { return {}; }

 private:
  const std::string name_;
  const NpyArray array_;
};

class NpzSource : public ImportSource {
 public:
  NpzSource(NpzFile file, uint64_t file_bytes)
      : file_(std::move(file)), mean_bytes_(file_bytes / std::max<size_t>(file_.size(), 1)) {}

  size_t size() const override { return file_.size(); }
  const std::string& name(size_t i) const override { return file_.name(i); }
  uint64_t nbytes(size_t) const override { return mean_bytes_; }
  absl::StatusOr<LoadedTensor> Load(size_t i) const override {
    CLI_ASSIGN_OR_RETURN(NpyArray array, file_.Read(i));
    LoadedTensor loaded;
    loaded.tensor = {file_.name(i), array.dtype(), array.shape(), array.data()};
    loaded.owner = std::move(array);
    return loaded;
  }
  std::string identity(size_t) const override { return {}; }

 private:
  const NpzFile file_;
  const uint64_t mean_bytes_;
};

template <class Source, class... Parts>
absl::StatusOr<std::unique_ptr<ImportSource>> Made(Parts&&... parts) {
  return std::unique_ptr<ImportSource>(std::make_unique<Source>(std::forward<Parts>(parts)...));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ImportSource>> ImportSource::Open(const std::string& path) {
  const std::filesystem::path file(path);
  std::error_code error;
  if (!std::filesystem::exists(file, error)) {
    return absl::NotFoundError(StrCat("'", path, "': no such file or directory"));
  }
  if (std::filesystem::is_directory(file, error)) {
    CLI_ASSIGN_OR_RETURN(ShardedDirectory directory, ShardedDirectory::Open(path));
    return Made<MappedSource>(std::move(directory));
  }
  const std::string kind = file.extension().string();
  if (kind == ".safetensors") {
    CLI_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::Open(path));
    return Made<MappedSource>(std::move(opened));
  }
  if (kind == ".npy") {
    CLI_ASSIGN_OR_RETURN(NpyArray array, NpyArray::Open(path));
    return Made<NpySource>(file.stem().string(), std::move(array));
  }
  if (kind == ".npz") {
    CLI_ASSIGN_OR_RETURN(NpzFile opened, NpzFile::Open(path));
    const uintmax_t bytes = std::filesystem::file_size(file, error);
    return Made<NpzSource>(std::move(opened), error ? 0 : bytes);
  }
  return absl::InvalidArgumentError(
      StrCat("'", path,
             "': the name must end in .safetensors, .npy or .npz, or be a directory of "
             "safetensors files"));
}

}  // namespace penstock::cli
