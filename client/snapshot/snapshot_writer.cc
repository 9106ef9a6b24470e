// SnapshotWriter: puts the tensors bound to the session, then the index takes them over.
//
// Where the prefix's index is at home at this node and there is one rank, both are one act of the node (CommitRequest). Else in two
// steps: every rank makes its tensors stay and puts its part, its vote; then rank 0 changes the index. Whether somebody died in between is
// told by the Open entry of the index and by the names in live/, which are bound to the ranks' sessions.
#include <penstock/snapshot.h>

#include <map>
#include <unordered_set>
#include <utility>

#include "client/session/deadline.h"
#include "client/session/fork.h"
#include "client/snapshot/manifest.h"
#include "client/snapshot/snapshot_index.h"
#include "proto/strcat.h"
#include "transport/fault_point.h"

namespace penstock {
namespace {

using client::Deadline;
using client::InternalNames;
using client::SnapshotIndex;

constexpr absl::Duration kLookAround = absl::Milliseconds(200);  // how often the others' lives are looked at

// A host without a node of its own keeps nothing that would go with its session: what it opens ends by the clock.
constexpr absl::Duration kLongestElsewhere = absl::Hours(1);

bool HasNumber(const v1::SnapshotIndex& index, uint64_t number) {
  for (const auto& entry : index.entries()) {
    if (entry.number() == number) return true;
  }
  return false;
}

const v1::SnapshotIndex::Open* FindOpen(const v1::SnapshotIndex& index, std::string_view id) {
  for (const auto& open : index.open()) {
    if (open.id() == id) return &open;
  }
  return nullptr;
}

void RemoveOpen(v1::SnapshotIndex* index, std::string_view id) {
  for (int i = index->open_size() - 1; i >= 0; --i) {
    if (index->open(i).id() == id) index->mutable_open()->DeleteSubrange(i, 1);
  }
}

// The oldest ones that are too many, except the pinned.
void KeepLast(uint32_t keep_last, v1::SnapshotIndex* index) {
  if (keep_last == 0) return;
  int unpinned = 0;
  for (int i = index->entries_size() - 1; i >= 0; --i) {
    if (index->entries(i).pinned() || ++unpinned <= static_cast<int>(keep_last)) continue;
    index->add_removing(index->entries(i).id());
    index->mutable_entries()->DeleteSubrange(i, 1);
  }
}

class Writer : public SnapshotWriter {
 public:
  Writer(const Client& client, std::string_view prefix, const SnapshotOptions& options)
      : index_(client, prefix), options_(options), deadline_(Deadline::After(options.timeout)) {}
  ~Writer() override { Abort(); }

  absl::Status Begin() {
    if (absl::Status s = index_.Check(); !s.ok()) return s;
    if (absl::Status s = CheckOptions(); !s.ok()) return s;
    if (options_.rank > 0) return Join();
    if (absl::Status s = index_.Sweep(); !s.ok()) return s;
    id_ = client::NewId();
    if (options_.ranks > 1) return Announce();
    if (absl::Status s = CheckNumber(); !s.ok()) return s;
    const absl::StatusOr<bool> here = index_.CreateHere();
    return here.ok() && !*here ? Announce() : here.status();
  }

  absl::Status PutMany(absl::Span<const Item> items) override {
    if (absl::Status s = CheckOpen(); !s.ok()) return s;
    absl::Status status = PutAll(items);
    if (!status.ok()) failed_ = status;
    return status;
  }

  absl::Status PutAll(absl::Span<const Item> items) {
    std::vector<std::string> names;
    std::vector<PutRequest> requests;
    std::vector<std::string_view> keys;
    names.reserve(items.size());
    for (const Item& item : items) {
      if (absl::Status s = Note(item); !s.ok()) return s;
      if (item.staged) continue;
      names.push_back(client::TensorName(id_, options_.rank, keys_.size() - 1));
      requests.push_back({names.back(), item.tensor});
      keys.push_back(item.key);
    }
    if (requests.empty()) return absl::OkStatus();
    size_t failed = 0;
    const absl::Status put = index_.names().PutBound(requests, &failed);
    return put.ok() || failed == keys.size() ? put : Named(put, keys[failed]);
  }

  const std::string& id() const override { return id_; }

  void SetDocument(std::string document) override { part_.set_document(std::move(document)); }

  absl::StatusOr<SnapshotInfo> Commit() override {
    if (absl::Status s = CheckOpen(); !s.ok()) return s;
    const absl::Status committed = options_.rank > 0 ? CommitWithRank0() : options_.ranks > 1 ? CommitTogether() : CommitAlone();
    if (!committed.ok()) {
      if (IsUnknown(committed)) {
        open_ = false;  // it may still happen: nothing is deleted. What is bound goes with this session, if it does not
      } else {
        Abort();
      }
      return committed;
    }
    open_ = false;
    if (announced_ && options_.rank == 0) {
      for (const char* traces : {"/live/", "/joined/", "/part/"}) index_.names().DeletePrefix(StrCat(client::SnapshotFolder(id_), traces)).IgnoreError();
    }
    if (options_.rank == 0) index_.Sweep().IgnoreError();  // what could not be deleted now is next time
    return info_;
  }

  // After it only rank 0 decides; its live/ name stays until this session ends, or rank 0 has gone on.
  absl::Status Vote() override {
    if (absl::Status s = CheckOpen(); !s.ok()) return s;
    if (options_.rank == 0) return absl::InvalidArgumentError("rank: 0 does not vote, it commits");
    const absl::Status voted = PutVote();
    if (!voted.ok()) Abort();
    open_ = false;
    return voted;
  }

  void Abort() override {
    if (!std::exchange(open_, false) || forked()) return;
    // Rank 0 must not be able to commit, now or later, what is deleted here.
    if (announced_ && (options_.rank == 0 || voted_) && !LeaveIndex()) return;
    // Another rank deletes its own; rank 0 those of all.
    if (options_.rank == 0) {
      index_.Delete(id_).IgnoreError();
      index_.DeleteIfEmpty();
      return;
    }
    index_.DeleteStaged(client::StagedFolder(id_, options_.rank)).IgnoreError();
    index_.names().DeletePrefix(StrCat(client::TensorFolder(id_), "/", options_.rank, "/")).IgnoreError();
    index_.names().DeletePrefix(client::PartName(id_, options_.rank)).IgnoreError();
    index_.names().DeletePrefix(client::LiveName(id_, options_.rank)).IgnoreError();
  }

 private:
  absl::Status CheckOptions() const {
    if (options_.number == 0) return absl::InvalidArgumentError("number: 0; snapshots are numbered from 1 on");
    if (options_.ranks == 0 || options_.rank >= options_.ranks) {
      return absl::InvalidArgumentError(StrCat("rank: ", options_.rank, " of ", options_.ranks, " ranks; allowed are 0 to ranks - 1"));
    }
    if (options_.ranks > 1 && !options_.number) {
      return absl::InvalidArgumentError("number: several ranks that write one snapshot must give it, the same to all (a training step, say)");
    }
    return absl::OkStatus();
  }

  absl::Status CheckOpen() const {
    if (forked()) return absl::FailedPreconditionError(StrCat(Name(), ": it belongs to the process that forked"));
    if (open_ && failed_.ok()) return absl::OkStatus();
    if (!failed_.ok()) {
      return absl::FailedPreconditionError(StrCat(Name(), ": a put of it has failed, so it can only be aborted: ", failed_.message()));
    }
    return absl::FailedPreconditionError(StrCat(Name(), ": it was committed or aborted before; open another one"));
  }

  absl::Status Taken(uint64_t number) const {
    return absl::AbortedError(StrCat("number: snapshot ", number, " of '", index_.prefix(), "' exists; remove it or give another number"));
  }

  static absl::Status Named(const absl::Status& status, std::string_view key) {
    return absl::Status(status.code(), StrCat("'", key, "': ", status.message()));
  }

  // Whether a commit may have happened, or may happen yet, though it was not answered.
  bool IsUnknown(const absl::Status& status) const {
    return swapping_ && (absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status) || absl::IsInternal(status) || absl::IsUnknown(status));
  }

  // False: it is committed, or it cannot be told whether it will be.
  bool LeaveIndex() {
    return index_.Update([this](v1::SnapshotIndex& index) {
      for (const auto& entry : index.entries()) {
        if (entry.id() == id_) return absl::AlreadyExistsError("committed");
      }
      RemoveOpen(&index, id_);
      return absl::OkStatus();
    }).ok();
  }

  absl::Status CheckNumber() {
    const absl::StatusOr<SnapshotIndex::Present> present = index_.Read();
    if (!present.ok()) return present.status();
    if (options_.number && HasNumber(present->index, *options_.number)) return Taken(*options_.number);
    open_ = true;
    return absl::OkStatus();
  }

  // Where the end cannot be one act: the others, and who cleans up, find it.
  absl::Status Announce() {
    if (absl::Status s = PutLive(); !s.ok()) return s;
    open_ = announced_ = true;
    const bool bound_here = index_.names().IsHere(client::LiveName(id_, 0));
    return index_.Update([this, bound_here](v1::SnapshotIndex& index) {
      if (options_.number && HasNumber(index, *options_.number)) return Taken(*options_.number);
      v1::SnapshotIndex::Open* open = index.add_open();
      open->set_id(id_);
      open->set_number(options_.number.value_or(0));
      open->set_ranks(options_.ranks);
      if (!bound_here) open->set_until_ns(static_cast<uint64_t>(absl::ToUnixNanos(absl::Now() + kLongestElsewhere)));
      return absl::OkStatus();
    });
  }

  bool forked() const { return fork_count_ != client::ForkList::fork_count(); }

  absl::Status PutLive() {
    const std::string joined = client::JoinedName(id_, options_.rank);
    if (const auto put = index_.names().PutText(joined, "", layout::Purpose::kInternal); !put.ok()) return put.status();
    const std::string name = client::LiveName(id_, options_.rank);
    const PutRequest request{name, {.data = "", .dtype = DType::kU8, .shape = Shape({1}), .strides = {}}};
    size_t failed = 0;
    return index_.names().PutBound({&request, 1}, &failed);
  }

  // A rank other than 0: waits for rank 0 to announce.
  absl::Status Join() {
    for (;;) {
      const absl::StatusOr<SnapshotIndex::Present> present = index_.Read();
      if (!present.ok()) return present.status();
      for (const v1::SnapshotIndex::Open& open : present->index.open()) {
        if (options_.id.empty() ? open.number() != *options_.number : open.id() != options_.id) continue;
        const absl::StatusOr<bool> lives = index_.names().Exists(client::LiveName(open.id(), 0));
        if (!lives.ok()) return lives.status();
        if (!*lives) continue;  // of an earlier attempt
        if (open.ranks() != options_.ranks) {
          return absl::InvalidArgumentError(StrCat("ranks: ", options_.ranks, ", but rank 0 said ", open.ranks()));
        }
        id_ = open.id();
        open_ = announced_ = true;
        return PutLive();
      }
      if (HasNumber(present->index, *options_.number)) return Taken(*options_.number);
      if (!options_.id.empty()) return GivenUp();
      if (absl::Status s = MayWait("rank 0 has not opened it in time"); !s.ok()) return s;
      (void)index_.WaitAfter(present->version, deadline_.Slice(kLookAround)).status();
    }
  }

  absl::Status Note(const Item& item) {
    if (!keys_.insert(StrCat(item.key, item.box ? item.box->ToString() : "")).second) {
      return absl::InvalidArgumentError(StrCat("key: '", item.key, "' is given twice"));
    }
    v1::SnapshotManifest::Tensor* tensor = part_.add_tensors();
    tensor->set_key(std::string(item.key));
    tensor->set_dtype(static_cast<uint32_t>(item.tensor.dtype));
    const Shape& whole = item.box ? item.whole : item.tensor.shape;
    for (const int64_t dim : whole.dims()) tensor->add_shape(dim);
    v1::SnapshotManifest::Shard* shard = tensor->add_shards();
    shard->set_rank(options_.rank);
    shard->set_n(static_cast<uint32_t>(keys_.size() - 1));
    if (item.staged) NoteStaged(*item.staged, shard);
    if (!item.box) return absl::OkStatus();
    if (absl::Status s = ValidateBox(*item.box, item.whole); !s.ok()) return Named(s, item.key);
    if (item.box->shape() != item.tensor.shape) {
      return absl::InvalidArgumentError(StrCat("'", item.key, "': a shard of shape ", item.tensor.shape.ToString(), " at ", item.box->ToString(),
                                               " of the whole, which is another shape"));
    }
    for (int i = 0; i < item.box->rank(); ++i) {
      shard->add_offset(item.box->offset[i]);
      shard->add_extent(item.box->extent[i]);
    }
    return absl::OkStatus();
  }

  void NoteStaged(const Staged& staged, v1::SnapshotManifest::Shard* shard) {
    shard->set_stage(std::string(staged.id));
    shard->set_n(staged.number);
    staged_[shard->stage()].push_back(staged.number);
  }

  // Who deletes the snapshot deletes what was staged for it, too: so that must belong to it alone.
  absl::Status TakeStaged() {
    const auto purpose = announced_ ? layout::Purpose::kInternal : layout::Purpose::kBound;
    for (const auto& [stage, numbers] : staged_) {
      const auto taken = index_.names().PutText(StrCat(client::TakenPrefix(stage), 0), "", layout::Purpose::kBound, 0);
      if (absl::IsAborted(taken.status())) return absl::AbortedError(StrCat(Name(), ": what was staged for it belongs to another snapshot; stage it again"));
      if (!taken.ok()) return taken.status();
      const auto put = index_.names().PutText(StrCat(client::StagedFolder(id_, options_.rank), stage), "", purpose);
      if (!put.ok()) return put.status();
    }
    return absl::OkStatus();
  }

  // What this rank has put; of one rank alone with the manifest.
  std::string Mine() const { return StrCat(client::TensorFolder(id_), "/", options_.rank, "/"); }
  std::string All() const { return StrCat(client::TensorFolder(id_), "/"); }

  InternalNames::Kept WithStaged(std::string prefix) const {
    InternalNames::Kept kept{.prefix = std::move(prefix), .staged = {}};
    for (const auto& [stage, numbers] : staged_) {
      kept.staged.push_back({client::StagePrefix(stage), numbers});
      kept.staged.push_back({client::TakenPrefix(stage), {0}});
    }
    return kept;
  }

  absl::Status AddEntry(v1::SnapshotIndex& index) {
    const uint64_t latest = index.entries().empty() ? 0 : index.entries(index.entries_size() - 1).number();
    const uint64_t number = options_.number.value_or(latest + 1);
    if (HasNumber(index, number)) return Taken(number);
    if (announced_ && FindOpen(index, id_) == nullptr) {
      return absl::AbortedError(StrCat(Name(), ": it was given up meanwhile, as its writer seemed to have died; begin again"));
    }
    RemoveOpen(&index, id_);
    v1::SnapshotIndex::Entry entry;
    entry.set_number(number);
    entry.set_id(id_);
    entry.set_created_ns(static_cast<uint64_t>(absl::GetCurrentTimeNanos()));
    entry.set_nbytes(nbytes_);
    entry.set_tensors(tensors_);
    for (const auto& [key, value] : options_.metadata) (*entry.mutable_metadata())[key] = value;
    info_ = client::InfoOf(entry);
    int at = index.entries_size();
    *index.add_entries() = std::move(entry);
    for (; at > 0 && index.entries(at - 1).number() > number; --at) index.mutable_entries()->SwapElements(at, at - 1);
    KeepLast(options_.keep_last, &index);
    return absl::OkStatus();
  }

  absl::Status PutManifest(std::vector<v1::SnapshotManifest> parts, layout::Purpose purpose) {
    absl::StatusOr<v1::SnapshotManifest> whole = client::MergeParts(std::move(parts));
    if (!whole.ok()) return whole.status();
    nbytes_ = client::ShardBytes(*whole);
    tensors_ = static_cast<uint64_t>(whole->tensors_size());
    PENSTOCK_FAULT_POINT("client.snapshot.manifest");
    return index_.names().PutText(client::ManifestName(id_), whole->SerializeAsString(), purpose).status();
  }

  absl::Status CommitAlone() {
    if (absl::Status s = TakeStaged(); !s.ok()) return s;
    if (absl::Status s = PutManifest({part_}, layout::Purpose::kBound); !s.ok()) return s;
    const auto add = [this](v1::SnapshotIndex& index) { return AddEntry(index); };
    swapping_ = true;
    if (!announced_) {
      const absl::Status at_once = index_.UpdateKeeping(add, WithStaged(All()));
      if (!absl::IsFailedPrecondition(at_once)) return at_once;
      if (absl::Status s = Announce(); !s.ok()) return s;  // the index went away, and came back elsewhere
    }
    if (absl::Status s = Keep(All()); !s.ok()) return s;
    return index_.Update(add);
  }

  absl::Status Keep(const std::string& prefix) {
    const absl::Status kept = index_.names().Keep(WithStaged(prefix));
    PENSTOCK_FAULT_POINT("client.snapshot.kept");
    return kept;
  }

  // Rank 0 of several.
  absl::Status CommitTogether() {
    std::vector<v1::SnapshotManifest> parts{std::move(part_)};
    for (uint32_t rank = 1; rank < options_.ranks; ++rank) {
      absl::StatusOr<v1::SnapshotManifest> part = WaitForPart(rank);
      if (!part.ok()) return part.status();
      parts.push_back(*std::move(part));
    }
    if (absl::Status s = PutManifest(std::move(parts), layout::Purpose::kInternal); !s.ok()) return s;
    if (absl::Status s = TakeStaged(); !s.ok()) return s;
    if (absl::Status s = Keep(Mine()); !s.ok()) return s;
    swapping_ = true;
    return index_.Update([this](v1::SnapshotIndex& index) { return AddEntry(index); });
  }

  absl::StatusOr<v1::SnapshotManifest> WaitForPart(uint32_t rank) {
    const std::string name = client::PartName(id_, rank);
    for (;;) {
      const absl::StatusOr<bool> joined = index_.names().Exists(client::JoinedName(id_, rank));
      if (!joined.ok()) return joined.status();
      const absl::StatusOr<bool> lives = index_.names().Exists(client::LiveName(id_, rank));
      if (!lives.ok()) return lives.status();
      const absl::StatusOr<TensorInfo> there = index_.names().Wait(name, 1, deadline_.Slice(kLookAround));
      if (there.ok()) break;
      if (!absl::IsDeadlineExceeded(there.status())) return there.status();
      if (*joined && !*lives) return absl::AbortedError(StrCat(Name(), ": rank ", rank, " died before it had put its tensors"));
      if (absl::Status s = MayWait(StrCat("rank ", rank, " of ", options_.ranks, " has not put its tensors in time")); !s.ok()) return s;
    }
    const absl::StatusOr<InternalNames::Text> text = index_.names().ReadText(name);
    if (!text.ok()) return text.status();
    return client::ReadManifest(name, text->text);
  }

  // Of another rank: what it has put stays, and it says so.
  absl::Status PutVote() {
    if (absl::Status s = TakeStaged(); !s.ok()) return s;
    if (absl::Status s = Keep(Mine()); !s.ok()) {
      const absl::StatusOr<SnapshotIndex::Present> present = index_.Read();
      return present.ok() && FindOpen(present->index, id_) == nullptr ? GivenUp() : s;
    }
    voted_ = true;
    const auto put = index_.names().PutText(client::PartName(id_, options_.rank), part_.SerializeAsString(), layout::Purpose::kInternal);
    if (!put.ok()) return put.status();
    PENSTOCK_FAULT_POINT("client.snapshot.voted");
    return absl::OkStatus();
  }

  absl::Status CommitWithRank0() {
    if (absl::Status s = PutVote(); !s.ok()) return s;
    for (;;) {
      const absl::StatusOr<SnapshotIndex::Present> present = index_.Read();
      if (!present.ok()) return present.status();
      for (const auto& entry : present->index.entries()) {
        if (entry.id() != id_) continue;
        info_ = client::InfoOf(entry);
        return absl::OkStatus();
      }
      if (FindOpen(present->index, id_) == nullptr) return GivenUp();
      const absl::StatusOr<bool> lives = index_.names().Exists(client::LiveName(id_, 0));
      if (lives.ok() && !*lives) {
        // Out of the index first: then rank 0, should it live after all, cannot commit any more.
        if (absl::Status s = index_.Sweep(); !s.ok()) return s;
      } else {
        if (absl::Status s = MayWait("rank 0 has not committed it in time"); !s.ok()) return s;
        (void)index_.WaitAfter(present->version, deadline_.Slice(kLookAround)).status();
      }
    }
  }

  absl::Status GivenUp() const { return absl::AbortedError(StrCat(Name(), ": rank 0 gave it up or died")); }

  // While waiting for other ranks.
  absl::Status MayWait(std::string_view what) const {
    if (options_.cancelled && options_.cancelled()) return absl::CancelledError(StrCat(Name(), ": the wait was cancelled"));
    if (deadline_.Passed()) return absl::DeadlineExceededError(StrCat(Name(), ": ", what));
    return absl::OkStatus();
  }

  std::string Name() const { return StrCat("snapshot ", options_.number ? StrCat(*options_.number, " ") : "", "of '", index_.prefix(), "'"); }

  SnapshotIndex index_;
  const SnapshotOptions options_;
  const Deadline deadline_;
  std::string id_;
  const uint64_t fork_count_ = client::ForkList::fork_count();
  bool open_ = false;
  bool announced_ = false;  // has an Open entry and a live/ name
  v1::SnapshotManifest part_;
  std::unordered_set<std::string> keys_;
  std::map<std::string, std::vector<uint32_t>> staged_;  // numbers of what this rank has named, by stage
  bool swapping_ = false;   // the index is being changed so that it commits
  bool voted_ = false;      // rank 0 may commit what this rank has put
  absl::Status failed_;
  uint64_t nbytes_ = 0;
  uint64_t tensors_ = 0;
  SnapshotInfo info_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SnapshotWriter>> SnapshotWriter::Open(const Client& client, std::string_view prefix, const SnapshotOptions& options) {
  auto writer = std::make_unique<Writer>(client, prefix, options);
  if (absl::Status s = writer->Begin(); !s.ok()) return s;
  return writer;
}

}  // namespace penstock
