// SnapshotIndex: which snapshots a prefix has. One tensor (proto/snapshot.proto), changed by compare-and-swap (index_tensor.h).
//
// Threading:  any thread
// Ownership:  keeps the connection alive
// Errors:     InvalidArgument (prefix), NotFound (number), DataLoss (the index cannot be read), and Client's
// Limits:     a change is a get and a put; repeated while others change it, too
#ifndef PENSTOCK_CLIENT_SNAPSHOT_SNAPSHOT_INDEX_H_
#define PENSTOCK_CLIENT_SNAPSHOT_SNAPSHOT_INDEX_H_

#include <penstock/snapshot.h>

#include <string>
#include <string_view>

#include "client/index_tensor.h"
#include "snapshot.pb.h"

namespace penstock::client {

inline constexpr std::string_view kIndexFolder = ".penstock/snapshots/";  // then the prefix

// Names of a snapshot's tensors.
std::string SnapshotFolder(std::string_view id);   // everything of it lies below
std::string TensorFolder(std::string_view id);     // what readers need
std::string TensorName(std::string_view id, uint32_t rank, uint64_t n);
std::string ManifestName(std::string_view id);
std::string StagePrefix(std::string_view stage);                       // of what was put before the snapshot was opened; then its number
std::string TakenPrefix(std::string_view stage);                       // then 0: there is a snapshot that it belongs to
std::string ShardName(std::string_view id, const v1::SnapshotManifest::Shard& shard);
std::string StagedFolder(std::string_view id, uint32_t rank);          // with the ids of what of it is staged
std::string PartName(std::string_view id, uint32_t rank);
std::string LiveName(std::string_view id, uint32_t rank);
std::string JoinedName(std::string_view id, uint32_t rank);

SnapshotInfo InfoOf(const v1::SnapshotIndex::Entry& entry);

class SnapshotIndex {
 public:
  SnapshotIndex(const Client& client, std::string_view prefix);

  InternalNames& names() { return tensor_.names(); }
  const std::string& prefix() const { return prefix_; }
  absl::Status Check() const;  // the prefix

  using Present = IndexTensor<v1::SnapshotIndex>::Present;
  using Change = IndexTensor<v1::SnapshotIndex>::Change;
  absl::StatusOr<Present> Read() { return tensor_.Read(); }
  absl::Status Update(const Change& change) { return tensor_.Update(change); }
  // The same, and what is bound under the prefix stays from then on, in one act. FailedPrecondition: the index is not at home at this node, nothing is changed.
  absl::Status UpdateKeeping(const Change& change, const InternalNames::Kept& kept);
  // Makes an index if there is none, which goes with this session unless it is changed. Whether it is at home at this node.
  absl::StatusOr<bool> CreateHere();
  absl::StatusOr<Present> WaitAfter(uint64_t version, absl::Duration timeout);

  // Deletes all of a snapshot, with what was staged for it.
  absl::Status Delete(const std::string& id);
  // Deletes what is staged by the names below a StagedFolder, or a folder above it; the names last.
  absl::Status DeleteStaged(const std::string& folder);
  // Deletes what writers that died and removals that were cut off have left.
  absl::Status Sweep();
  void DeleteIfEmpty() { tensor_.DeleteIfEmpty(); }

 private:
  const std::string prefix_;
  IndexTensor<v1::SnapshotIndex> tensor_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SNAPSHOT_SNAPSHOT_INDEX_H_
