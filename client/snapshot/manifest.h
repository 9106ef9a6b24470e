// The manifest of a snapshot: its tensors, and where their shards lie.
//
// Threading:  any thread; no state
// Ownership:  takes and gives messages
// Errors:     DataLoss (ReadManifest: bytes that are no manifest); InvalidArgument that names the key (MergeParts: ranks that do not agree on
//             dtype or shape, shards that overlap or leave gaps)
// Limits:     shards of one tensor are compared pair by pair
#ifndef PENSTOCK_CLIENT_SNAPSHOT_MANIFEST_H_
#define PENSTOCK_CLIENT_SNAPSHOT_MANIFEST_H_

#include <penstock/box.h>
#include <penstock/shape.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "snapshot.pb.h"

namespace penstock::client {

// Every shape is one, every box lies in its shape.
absl::StatusOr<v1::SnapshotManifest> ReadManifest(std::string_view name, std::string_view bytes);

// Of manifests that were read, or made by us.
Shape ShapeOf(const v1::SnapshotManifest::Tensor& tensor);
Box BoxOf(const v1::SnapshotManifest::Shard& shard, const Shape& shape);
uint64_t ShardBytes(const v1::SnapshotManifest& manifest);

// What the ranks have put, as one list of tensors that are whole. The document is that of the first part. What several ranks have put
// whole, or the same box of it, counts once.
absl::StatusOr<v1::SnapshotManifest> MergeParts(std::vector<v1::SnapshotManifest> parts);

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SNAPSHOT_MANIFEST_H_
