#include "client/files/sharded_directory.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "client/files/mapped_file.h"
#include "proto/errors.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

constexpr std::string_view kUsualIndex = "model.safetensors.index.json";

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() > end.size() && text.substr(text.size() - end.size()) == end;
}

struct Listing {
  std::vector<std::string> indexes;  // sorted, as are the shards
  std::vector<std::string> shards;
};

absl::StatusOr<Listing> List(const std::string& directory) {
  Listing listing;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (EndsWith(name, ".safetensors.index.json")) listing.indexes.push_back(name);
    if (EndsWith(name, ".safetensors")) listing.shards.push_back(name);
  }
  if (error) return ErrnoStatus(error.value(), StrCat("list ", directory));
  std::sort(listing.indexes.begin(), listing.indexes.end());
  std::sort(listing.shards.begin(), listing.shards.end());
  return listing;
}

// The index to use; empty if there is none.
absl::StatusOr<std::string> ChooseIndex(const Listing& listing, const std::string& directory) {
  if (listing.indexes.empty()) return std::string();
  if (std::count(listing.indexes.begin(), listing.indexes.end(), kUsualIndex) != 0) {
    return std::string(kUsualIndex);
  }
  if (listing.indexes.size() == 1) return listing.indexes.front();
  return absl::InvalidArgumentError(StrCat(directory, ": several indexes and none is ", kUsualIndex,
                                           ": ", Join(listing.indexes, ", "),
                                           "; take one file or keep one index"));
}

absl::StatusOr<WeightMap> ReadIndex(const std::string& path) {
  const absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<WeightMap> map = ParseShardedIndex(
      std::string_view(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()));
  if (!map.ok()) {
    return absl::Status(map.status().code(), StrCat(path, ": ", map.status().message()));
  }
  return map;
}

}  // namespace

absl::StatusOr<ShardedDirectory> ShardedDirectory::Open(const std::string& directory) {
  const absl::StatusOr<Listing> listing = List(directory);
  if (!listing.ok()) return listing.status();
  const absl::StatusOr<std::string> index = ChooseIndex(*listing, directory);
  if (!index.ok()) return index.status();
  ShardedDirectory result;
  absl::Status status;
  if (index->empty()) {
    if (listing->shards.empty()) {
      return absl::NotFoundError(StrCat(directory, ": holds no *.safetensors file and no index"));
    }
    result.shards_ = listing->shards;
    status = result.OpenShards(directory);
    if (status.ok()) status = result.TakeAll();
  } else {
    const absl::StatusOr<WeightMap> map = ReadIndex(StrCat(directory, "/", *index));
    if (!map.ok()) return map.status();
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : *map) shards.insert(shard);
    result.shards_.assign(shards.begin(), shards.end());
    status = result.OpenShards(directory);
    if (status.ok()) status = result.TakeListed(*map);
  }
  if (!status.ok()) return status;
  return result;
}

absl::Status ShardedDirectory::OpenShards(const std::string& directory) {
  for (const std::string& shard : shards_) {
    absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(StrCat(directory, "/", shard));
    if (!file.ok()) return file.status();
    metadata_.insert(file->metadata().begin(), file->metadata().end());
    files_.push_back(*std::move(file));
  }
  return absl::OkStatus();
}

absl::Status ShardedDirectory::TakeListed(const WeightMap& weight_map) {
  std::set<std::string> taken;
  for (size_t shard = 0; shard < files_.size(); ++shard) {
    for (const FileTensor& tensor : files_[shard].tensors()) {
      const auto listed = weight_map.find(tensor.name);
      if (listed == weight_map.end() || listed->second != shards_[shard]) {
        unlisted_.push_back(StrCat(shards_[shard], ": ", tensor.name));
        continue;
      }
      tensors_.push_back({&tensor, shard});
      taken.insert(tensor.name);
    }
  }
  for (const auto& [name, shard] : weight_map) {
    if (taken.count(name) == 0) {
      return absl::InvalidArgumentError(StrCat("safetensors index: tensor \"", name,
                                               "\" is not in ", shard,
                                               ", where weight_map has it"));
    }
  }
  return absl::OkStatus();
}

absl::Status ShardedDirectory::TakeAll() {
  std::unordered_map<std::string_view, size_t> taken;
  for (size_t shard = 0; shard < files_.size(); ++shard) {
    for (const FileTensor& tensor : files_[shard].tensors()) {
      const auto [place, is_new] = taken.emplace(tensor.name, shard);
      if (!is_new) {
        return absl::InvalidArgumentError(StrCat("tensor \"", tensor.name, "\" is in both ",
                                                 shards_[place->second], " and ", shards_[shard],
                                                 ", and no index says which one counts"));
      }
      tensors_.push_back({&tensor, shard});
    }
  }
  return absl::OkStatus();
}

}  // namespace penstock
