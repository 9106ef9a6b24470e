// Snapshots: what a prefix has, read and looked after.
#include <algorithm>
#include <utility>

#include "client/session/deadline.h"
#include "client/snapshot/manifest.h"
#include "client/snapshot/snapshot_index.h"
#include "proto/strcat.h"

namespace penstock {

using client::kIndexFolder;
using client::SnapshotIndex;

namespace {

absl::Status NoSuch(const std::string& prefix, std::optional<uint64_t> number) {
  if (!number) return absl::NotFoundError(StrCat("'", prefix, "' has no snapshot"));
  return absl::NotFoundError(StrCat("'", prefix, "' has no snapshot ", *number));
}

v1::SnapshotIndex::Entry* FindEntry(v1::SnapshotIndex& index, std::optional<uint64_t> number) {
  const int count = index.entries_size();
  if (!number) return count == 0 ? nullptr : index.mutable_entries(count - 1);
  for (int i = 0; i < count; ++i) {
    if (index.entries(i).number() == *number) return index.mutable_entries(i);
  }
  return nullptr;
}

SnapshotTensor TensorOf(const std::string& id, const v1::SnapshotManifest::Tensor& tensor) {
  SnapshotTensor made{.key = tensor.key(), .dtype = static_cast<DType>(tensor.dtype()), .shape = client::ShapeOf(tensor), .shards = {}};
  made.shards.reserve(static_cast<size_t>(tensor.shards_size()));
  for (const auto& shard : tensor.shards()) {
    made.shards.push_back({.name = client::ShardName(id, shard), .box = client::BoxOf(shard, made.shape)});
  }
  return made;
}

}  // namespace

struct Snapshots::State {
  SnapshotIndex index;
};

Snapshots::Snapshots(const Client& client, std::string_view prefix) : state_(new State{SnapshotIndex(client, prefix)}) {}
Snapshots::~Snapshots() = default;

absl::StatusOr<std::vector<SnapshotInfo>> Snapshots::List() const {
  if (absl::Status s = state_->index.Check(); !s.ok()) return s;
  const absl::StatusOr<SnapshotIndex::Present> present = state_->index.Read();
  if (!present.ok()) return present.status();
  std::vector<SnapshotInfo> infos;
  for (const auto& entry : present->index.entries()) infos.push_back(client::InfoOf(entry));
  return infos;
}

absl::StatusOr<SnapshotInfo> Snapshots::Find(std::optional<uint64_t> number) const {
  if (absl::Status s = state_->index.Check(); !s.ok()) return s;
  absl::StatusOr<SnapshotIndex::Present> present = state_->index.Read();
  if (!present.ok()) return present.status();
  const v1::SnapshotIndex::Entry* entry = FindEntry(present->index, number);
  if (entry == nullptr) return NoSuch(state_->index.prefix(), number);
  return client::InfoOf(*entry);
}

absl::StatusOr<SnapshotContents> Snapshots::Read(std::optional<uint64_t> number) const {
  for (;;) {
    absl::StatusOr<SnapshotInfo> info = Find(number);
    if (!info.ok()) return info.status();
    const std::string name = client::ManifestName(info->id);
    const absl::StatusOr<client::InternalNames::Text> text = state_->index.names().ReadText(name);
    if (!text.ok()) return text.status();
    if (text->version == 0) {  // removed in between, or lost
      const absl::StatusOr<SnapshotInfo> now = Find(number);
      if (now.ok() && now->id == info->id) return absl::DataLossError(StrCat("snapshot ", info->number, " of '", state_->index.prefix(), "': its manifest ", name, " is lost"));
      continue;
    }
    absl::StatusOr<v1::SnapshotManifest> manifest = client::ReadManifest(name, text->text);
    if (!manifest.ok()) return manifest.status();
    SnapshotContents contents{.info = *std::move(info), .document = std::move(*manifest->mutable_document()), .tensors = {}};
    contents.tensors.reserve(static_cast<size_t>(manifest->tensors_size()));
    for (const auto& tensor : manifest->tensors()) contents.tensors.push_back(TensorOf(contents.info.id, tensor));
    return contents;
  }
}

absl::Status Snapshots::Remove(uint64_t number) {
  if (absl::Status s = state_->index.Check(); !s.ok()) return s;
  const absl::Status removed = state_->index.Update([&](v1::SnapshotIndex& index) {
    for (int i = 0; i < index.entries_size(); ++i) {
      if (index.entries(i).number() != number) continue;
      index.add_removing(index.entries(i).id());
      index.mutable_entries()->DeleteSubrange(i, 1);
      return absl::OkStatus();
    }
    return NoSuch(state_->index.prefix(), number);
  });
  return removed.ok() ? state_->index.Sweep() : removed;
}

absl::Status Snapshots::Pin(uint64_t number, bool pinned) {
  if (absl::Status s = state_->index.Check(); !s.ok()) return s;
  return state_->index.Update([&](v1::SnapshotIndex& index) {
    v1::SnapshotIndex::Entry* entry = FindEntry(index, number);
    if (entry == nullptr) return NoSuch(state_->index.prefix(), number);
    entry->set_pinned(pinned);
    return absl::OkStatus();
  });
}

absl::StatusOr<SnapshotInfo> Snapshots::WaitAfter(uint64_t number, absl::Duration timeout) const {
  if (absl::Status s = state_->index.Check(); !s.ok()) return s;
  const client::Deadline deadline = client::Deadline::After(timeout);
  for (;;) {
    absl::StatusOr<SnapshotIndex::Present> present = state_->index.Read();
    if (!present.ok()) return present.status();
    const v1::SnapshotIndex::Entry* latest = FindEntry(present->index, std::nullopt);
    if (latest != nullptr && latest->number() > number) return client::InfoOf(*latest);
    const auto changed = state_->index.WaitAfter(present->version, deadline.Left());
    if (!changed.ok()) return changed.status();
  }
}

absl::StatusOr<std::vector<std::string>> Snapshots::Prefixes(const Client& client, std::string_view prefix) {
  SnapshotIndex index(client, prefix);
  std::vector<std::string> prefixes;
  std::string after;
  for (;;) {
    const absl::StatusOr<ListPage> page = index.names().List(StrCat(kIndexFolder, prefix), after);
    if (!page.ok()) return page.status();
    for (const TensorInfo& info : page->items) prefixes.push_back(info.name.substr(kIndexFolder.size()));
    if (!page->more || page->items.empty()) return prefixes;
    after = page->items.back().name;
  }
}

}  // namespace penstock
