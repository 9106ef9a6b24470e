// SnapshotStage: tensors bound to this session in a folder of their own, which has the form of a snapshot's.
#include <penstock/snapshot.h>

#include <utility>

#include "client/session/fork.h"
#include "client/snapshot/snapshot_index.h"
#include "proto/strcat.h"

namespace penstock {
namespace {

using client::InternalNames;

class Stage : public SnapshotStage {
 public:
  explicit Stage(const Client& client) : names_(client) {}
  ~Stage() override { Drop(); }

  absl::Status Begin() {
    const std::string mark = client::LiveName(id_, 0);
    if (absl::Status s = names_.PutText(mark, "", layout::Purpose::kBound).status(); !s.ok()) return s;
    if (names_.IsHere(mark)) return absl::OkStatus();
    names_.DeletePrefix(Folder()).IgnoreError();
    dropped_ = true;
    return absl::FailedPreconditionError("stage: the node of this host has no new names of its own, so nothing can be bound to this process");
  }

  const std::string& id() const override { return id_; }
  std::string Name(uint32_t number) const override { return StrCat(client::StagePrefix(id_), number); }

  absl::StatusOr<uint32_t> PutMany(absl::Span<const ConstTensorRef> tensors) override {
    if (dropped_) return absl::FailedPreconditionError("stage: it was dropped before; open another one");
    std::vector<std::string> names;
    std::vector<PutRequest> requests;
    names.reserve(tensors.size());
    for (const ConstTensorRef& tensor : tensors) {
      names.push_back(Name(count_ + static_cast<uint32_t>(names.size())));
      requests.push_back({names.back(), tensor});
    }
    size_t failed = 0;
    if (absl::Status s = names_.PutBound(requests, &failed); !s.ok()) return s;
    return std::exchange(count_, count_ + static_cast<uint32_t>(tensors.size()));
  }

  void Drop() override {
    if (std::exchange(dropped_, true) || fork_count_ != client::ForkList::fork_count()) return;
    names_.DropBound(Folder()).IgnoreError();  // else it goes with the session
  }

 private:
  std::string Folder() const { return StrCat(client::SnapshotFolder(id_), "/"); }

  InternalNames names_;
  const std::string id_ = client::NewId();
  const uint64_t fork_count_ = client::ForkList::fork_count();
  uint32_t count_ = 0;
  bool dropped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotStage>> SnapshotStage::Open(const Client& client) {
  auto stage = std::make_unique<Stage>(client);
  if (absl::Status s = stage->Begin(); !s.ok()) return s;
  return stage;
}

}  // namespace penstock
