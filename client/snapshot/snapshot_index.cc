#include "client/snapshot/snapshot_index.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "proto/names.h"
#include "proto/strcat.h"

namespace penstock::client {

namespace {

constexpr std::string_view kStaged = "/staged/";

}  // namespace

std::string SnapshotFolder(std::string_view id) { return StrCat(".penstock/snapshot/", id); }
std::string TensorFolder(std::string_view id) { return StrCat(SnapshotFolder(id), "/t"); }
std::string TensorName(std::string_view id, uint32_t rank, uint64_t n) { return StrCat(TensorFolder(id), "/", rank, "/", n); }
std::string StagePrefix(std::string_view stage) { return StrCat(TensorFolder(stage), "/0/"); }
std::string TakenPrefix(std::string_view stage) { return StrCat(SnapshotFolder(stage), "/taken/"); }
std::string ShardName(std::string_view id, const v1::SnapshotManifest::Shard& shard) {
  return shard.stage().empty() ? TensorName(id, shard.rank(), shard.n()) : StrCat(StagePrefix(shard.stage()), shard.n());
}
std::string StagedFolder(std::string_view id, uint32_t rank) { return StrCat(TensorFolder(id), kStaged, rank, "/"); }
std::string ManifestName(std::string_view id) { return StrCat(TensorFolder(id), "/manifest"); }
std::string PartName(std::string_view id, uint32_t rank) { return StrCat(SnapshotFolder(id), "/part/", rank); }
std::string JoinedName(std::string_view id, uint32_t rank) { return StrCat(SnapshotFolder(id), "/joined/", rank); }
std::string LiveName(std::string_view id, uint32_t rank) { return StrCat(SnapshotFolder(id), "/live/", rank); }

SnapshotInfo InfoOf(const v1::SnapshotIndex::Entry& entry) {
  return {.number = entry.number(),
          .id = entry.id(),
          .created = absl::FromUnixNanos(static_cast<int64_t>(entry.created_ns())),
          .nbytes = entry.nbytes(),
          .tensors = entry.tensors(),
          .pinned = entry.pinned(),
          .metadata = {entry.metadata().begin(), entry.metadata().end()}};
}

SnapshotIndex::SnapshotIndex(const Client& client, std::string_view prefix)
    : prefix_(prefix), tensor_(client, StrCat(kIndexFolder, prefix), StrCat("snapshots of '", prefix, "'")) {}

absl::Status SnapshotIndex::Check() const {
  const absl::Status valid = ValidateUserName(prefix_);
  if (!valid.ok()) return absl::InvalidArgumentError(StrCat("prefix: ", valid.message()));
  if (tensor_.name().size() <= kMaxNameBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("prefix: of ", prefix_.size(), " bytes; of snapshots it has at most ", kMaxNameBytes - kIndexFolder.size()));
}

absl::Status SnapshotIndex::UpdateKeeping(const Change& change, const InternalNames::Kept& kept) {
  return tensor_.Swap(change, [&](const std::string& text, uint64_t version) { return names().Commit(tensor_.name(), text, version, kept); });
}

absl::StatusOr<bool> SnapshotIndex::CreateHere() {
  const absl::StatusOr<Present> present = Read();
  if (!present.ok()) return present.status();
  if (present->version == 0) {
    const absl::StatusOr<TensorInfo> made = names().PutText(tensor_.name(), "", layout::Purpose::kBound, 0);
    if (!made.ok() && !absl::IsAborted(made.status())) return made.status();
  }
  return names().IsHere(tensor_.name());
}

absl::StatusOr<SnapshotIndex::Present> SnapshotIndex::WaitAfter(uint64_t version, absl::Duration timeout) {
  if (const absl::StatusOr<TensorInfo> changed = names().Wait(tensor_.name(), version + 1, timeout); !changed.ok()) return changed.status();
  return Read();
}

absl::Status SnapshotIndex::Delete(const std::string& id) {
  if (absl::Status s = DeleteStaged(StrCat(TensorFolder(id), kStaged)); !s.ok()) return s;
  return names().DeletePrefix(StrCat(SnapshotFolder(id), "/"));
}

absl::Status SnapshotIndex::DeleteStaged(const std::string& folder) {
  for (std::string after;;) {
    const absl::StatusOr<ListPage> page = names().List(folder, after);
    if (!page.ok()) return page.status();
    for (const TensorInfo& info : page->items) {
      const std::string stage = info.name.substr(info.name.rfind('/') + 1);
      if (absl::Status s = names().DeletePrefix(StrCat(SnapshotFolder(stage), "/")); !s.ok()) return s;
    }
    if (!page->more || page->items.empty()) return page->items.empty() && after.empty() ? absl::OkStatus() : names().DeletePrefix(folder);
    after = page->items.back().name;
  }
}

absl::Status SnapshotIndex::Sweep() {
  const absl::StatusOr<Present> present = Read();
  if (!present.ok()) return present.status();
  std::vector<std::string> gone(present->index.removing().begin(), present->index.removing().end());
  const size_t removing = gone.size();
  for (const v1::SnapshotIndex::Open& open : present->index.open()) {
    const absl::StatusOr<bool> lives = names().Exists(LiveName(open.id(), 0));
    const bool late = open.until_ns() != 0 && absl::GetCurrentTimeNanos() > static_cast<int64_t>(open.until_ns());
    if ((lives.ok() && !*lives) || late) gone.push_back(open.id());
  }
  if (gone.empty()) return absl::OkStatus();
  const auto is_gone = [&](const std::string& id) { return std::find(gone.begin(), gone.end(), id) != gone.end(); };
  // First out of the index, so that no late writer commits what is being deleted; `removing` remembers it until it is done.
  const absl::Status updated = gone.size() == removing ? absl::OkStatus() : Update([&](v1::SnapshotIndex& index) {
    for (int i = index.open_size() - 1; i >= 0; --i) {
      if (!is_gone(index.open(i).id())) continue;
      index.add_removing(index.open(i).id());
      index.mutable_open()->DeleteSubrange(i, 1);
    }
    return absl::OkStatus();
  });
  if (!updated.ok()) return updated;
  for (const std::string& id : gone) {
    if (absl::Status s = Delete(id); !s.ok()) return s;
  }
  const absl::Status done = Update([&](v1::SnapshotIndex& index) {
    google::protobuf::RepeatedPtrField<std::string> left;
    for (const std::string& id : index.removing()) {
      if (!is_gone(id)) *left.Add() = id;
    }
    index.mutable_removing()->Swap(&left);
    return absl::OkStatus();
  });
  DeleteIfEmpty();
  return done;
}

}  // namespace penstock::client
