#include "client/snapshot/manifest.h"

#include <penstock/dtype.h>

#include <algorithm>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "client/shards/boxes.h"
#include "proto/strcat.h"

namespace penstock::client {

namespace {

using v1::SnapshotManifest;

template <class Numbers>
absl::Span<const int64_t> SpanOf(const Numbers& numbers) {
  return {numbers.data(), static_cast<size_t>(numbers.size())};
}

absl::Status CheckTensor(const SnapshotManifest::Tensor& tensor) {
  const absl::StatusOr<Shape> shape = Shape::Create(SpanOf(tensor.shape()));
  if (!shape.ok()) return shape.status();
  if (const auto bytes = ByteSize(static_cast<DType>(tensor.dtype()), *shape); !bytes.ok()) return bytes.status();
  for (const SnapshotManifest::Shard& shard : tensor.shards()) {
    if (shard.stage().find_first_not_of("0123456789abcdef") != std::string::npos) return absl::InvalidArgumentError("a stage that is no id");
    if (shard.offset_size() == 0 && shard.extent_size() == 0) continue;
    if (shard.offset_size() != shape->rank() || shard.extent_size() != shape->rank()) return absl::InvalidArgumentError("a box of another rank");
    if (absl::Status s = ValidateBox(BoxOf(shard, *shape), *shape); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status AddShard(const SnapshotManifest::Shard& shard, SnapshotManifest::Tensor* tensor) {
  const Shape shape = ShapeOf(*tensor);
  const Box box = BoxOf(shard, shape);
  for (const SnapshotManifest::Shard& other : tensor->shards()) {
    const Box there = BoxOf(other, shape);
    if (box == there) return absl::OkStatus();  // a replica
    if (absl::Status s = CheckApart(box, there); !s.ok()) return absl::InvalidArgumentError(StrCat("'", tensor->key(), "': ", s.message()));
  }
  if (!box.empty()) *tensor->add_shards() = shard;
  return absl::OkStatus();
}

absl::Status CheckAlike(const SnapshotManifest::Tensor& a, const SnapshotManifest::Tensor& b) {
  if (a.dtype() == b.dtype() && ShapeOf(a) == ShapeOf(b)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("'", a.key(), "': put as ", DTypeName(static_cast<DType>(a.dtype())), " ", ShapeOf(a).ToString(), " and as ",
                                           DTypeName(static_cast<DType>(b.dtype())), " ", ShapeOf(b).ToString(), "; the ranks must agree"));
}

absl::Status CheckCovered(const SnapshotManifest::Tensor& tensor) {
  const Shape shape = ShapeOf(tensor);
  int64_t covered = 0;
  for (const SnapshotManifest::Shard& shard : tensor.shards()) covered += BoxOf(shard, shape).shape().num_elements();
  if (covered == shape.num_elements()) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("'", tensor.key(), "': its shards have ", covered, " of ", shape.num_elements(),
                                           " elements; every rank must put its own before the snapshot is committed"));
}

}  // namespace

absl::StatusOr<SnapshotManifest> ReadManifest(std::string_view name, std::string_view bytes) {
  SnapshotManifest manifest;
  absl::Status status = manifest.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ? absl::OkStatus() : absl::DataLossError("not a manifest");
  for (const SnapshotManifest::Tensor& tensor : manifest.tensors()) {
    if (status.ok()) status = CheckTensor(tensor);
  }
  if (status.ok()) return manifest;
  return absl::DataLossError(StrCat("'", name, "' cannot be read as a snapshot's manifest: ", status.message()));
}

Shape ShapeOf(const SnapshotManifest::Tensor& tensor) { return Shape(SpanOf(tensor.shape())); }

Box BoxOf(const SnapshotManifest::Shard& shard, const Shape& shape) {
  if (shard.offset_size() == 0) return Box::Whole(shape);
  return {.offset = Dims(SpanOf(shard.offset())), .extent = Dims(SpanOf(shard.extent()))};
}

uint64_t ShardBytes(const SnapshotManifest& manifest) {
  uint64_t total = 0;
  std::set<std::pair<std::string_view, uint32_t>> staged;  // tied tensors: one is enough for several keys
  for (const SnapshotManifest::Tensor& tensor : manifest.tensors()) {
    for (const SnapshotManifest::Shard& shard : tensor.shards()) {
      if (!shard.stage().empty() && !staged.insert({shard.stage(), shard.n()}).second) continue;
      total += ByteSize(static_cast<DType>(tensor.dtype()), BoxOf(shard, ShapeOf(tensor)).shape()).value_or(0);
    }
  }
  return total;
}

absl::StatusOr<SnapshotManifest> MergeParts(std::vector<SnapshotManifest> parts) {
  SnapshotManifest whole;
  whole.set_document(std::move(*parts.front().mutable_document()));
  std::unordered_map<std::string, int> at;
  for (const SnapshotManifest& part : parts) {
    for (const SnapshotManifest::Tensor& tensor : part.tensors()) {
      const auto [found, is_new] = at.try_emplace(tensor.key(), whole.tensors_size());
      SnapshotManifest::Tensor* merged = is_new ? whole.add_tensors() : whole.mutable_tensors(found->second);
      if (is_new) {
        *merged = tensor;
        merged->clear_shards();
      }
      if (absl::Status s = CheckAlike(*merged, tensor); !s.ok()) return s;
      for (const SnapshotManifest::Shard& shard : tensor.shards()) {
        if (absl::Status s = AddShard(shard, merged); !s.ok()) return s;
      }
    }
  }
  for (const SnapshotManifest::Tensor& tensor : whole.tensors()) {
    if (absl::Status s = CheckCovered(tensor); !s.ok()) return s;
  }
  return whole;
}

}  // namespace penstock::client
