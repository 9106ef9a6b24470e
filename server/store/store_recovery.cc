// Opening the store: an empty catalog, or what an earlier node process left in the warden's memory.
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/strcat.h"
#include "proto/uuid_text.h"
#include "server/store/record_state.h"
#include "server/store/store.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;
using layout::RecordState;

Store::Store(warden::NodeContext* context, const StoreLimits& limits)
    : limits_(limits),
      warden_(context->warden.get()),
      generation_(context->generation),
      started_ns_(context->started_ns),
      shared_(context->warden.get()),
      knows_others_(!limits.in_cluster),
      blocks_(BlockPolicy(limits.memory_bytes), &shared_) {}

Store::~Store() { StopWork(); }

absl::StatusOr<std::unique_ptr<Store>> Store::Open(warden::NodeContext* context, const StoreLimits& limits) {
  std::unique_ptr<Store> store(new Store(context, limits));
  const bool inherited = std::any_of(context->segments.begin(), context->segments.end(), [](const warden::Segment& s) {
    return s.kind == layout::SegmentKind::kCatalogHeader;
  });
  if (absl::Status s = store->OpenSpill(); !s.ok()) return s;
  if (absl::Status s = inherited ? store->Recover(context) : store->MakeCatalog(); !s.ok()) return s;
  if (absl::Status s = store->TakeSpillFiles(inherited); !s.ok()) return s;
  store->uuid_text_ = UuidText(store->header_->node_uuid);
  store->LogEvent(v1::Event::NODE, inherited ? StrCat("node process restarted, generation ", context->generation)
                                             : std::string("node started"));
  store->Maintain();  // begins the first arena
  return store;
}

absl::Status Store::MakeCatalog() {
  absl::StatusOr<SharedSegment> made = shared_.CreateSealed(
      {.kind = layout::SegmentKind::kCatalogHeader, .bytes = sizeof(layout::CatalogHeader), .populate = true});
  if (!made.ok()) return made.status();
  header_segment_ = made->id;
  header_bytes_ = made->bytes;
  header_ = static_cast<layout::CatalogHeader*>(made->address);
  header_->layout_version = layout::kLayoutVersion;
  header_->header_bytes = sizeof(layout::CatalogHeader);
  uint8_t random[32];
  if (getrandom(random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) return ErrnoStatus(errno, "getrandom");
  std::memcpy(header_->node_uuid, limits_.node_id.empty() ? random : reinterpret_cast<const uint8_t*>(limits_.node_id.data()), 16);
  std::memcpy(header_->hash_key, random + 16, 16);
  header_->serve_until_ns.store(limits_.in_cluster ? 0 : UINT64_MAX);
  header_->node_generation.store(generation_);
  slabs_ = std::make_unique<RecordSlabs>(header_, &shared_);
  index_ = std::make_unique<NameIndex>(header_, &shared_, slabs_.get());
  {
    std::lock_guard lock(mutex_);
    names_ = std::make_unique<NameOrder>(slabs_.get());
    directory_ = std::make_unique<DirectoryBook>(slabs_.get());
  }
  if (absl::Status s = index_->Start(0); !s.ok()) return s;
  header_->magic = layout::kCatalogMagic;  // last: a header without it is not a catalog
  return absl::OkStatus();
}

absl::Status Store::Recover(warden::NodeContext* context) {
  std::vector<SharedSegment> chunks;
  std::vector<SharedSegment> data;
  for (warden::Segment& segment : context->segments) {
    const SharedSegment shared = shared_.Adopt(std::move(segment));
    switch (shared.kind) {
      case layout::SegmentKind::kCatalogHeader:
        header_segment_ = shared.id;
        header_bytes_ = shared.bytes;
        header_ = static_cast<layout::CatalogHeader*>(shared.address);
        break;
      case layout::SegmentKind::kCatalogChunk: chunks.push_back(shared); break;
      case layout::SegmentKind::kIndex: earlier_indexes_.push_back(shared.id); break;  // one is made anew
      case layout::SegmentKind::kArena:
      case layout::SegmentKind::kExtent: data.push_back(shared); break;
      case layout::SegmentKind::kMutableBook:
      case layout::SegmentKind::kChannel:
      case layout::SegmentKind::kRegion: inherited_mutable_.push_back(shared); break;
      case layout::SegmentKind::kTableLog: inherited_tables_.push_back(shared); break;
      default: shared_.Drop(shared.id);
    }
  }
  if (absl::Status s = CheckHeader(chunks); !s.ok()) return s;
  slabs_ = std::make_unique<RecordSlabs>(header_, &shared_);
  index_ = std::make_unique<NameIndex>(header_, &shared_, slabs_.get());

  std::lock_guard lock(mutex_);
  names_ = std::make_unique<NameOrder>(slabs_.get());
  directory_ = std::make_unique<DirectoryBook>(slabs_.get());
  deleted_.RaiseFloor(header_->max_deleted_version.load());
  leases_.HoldAll(absl::FromUnixNanos(static_cast<int64_t>(header_->leased_until_ns.load())));
  InheritSessions(context);
  CountInheritedMutable();
  for (const SharedSegment& segment : data) {
    if (!segment.sealed) {  // its session never got to use it
      shared_.Drop(segment.id);
      continue;
    }
    // Who writes an extent and who has mapped what died with the earlier process: nobody gets its free space, and it is
    // given back when all sessions of that time have unmapped it.
    DataSegment* added = blocks_.Add(segment, /*owner=*/0);
    for (const auto& [id, session] : sessions_) added->holders.insert(id);
  }
  std::vector<RecordRef> refs = AdoptCatalog(chunks);
  RemoveDamaged(&refs);
  TellDamage();
  if (absl::Status s = index_->Start(refs.size(), /*hidden=*/true); !s.ok()) return s;
  Unsettled unsettled;
  for (RecordRef ref : refs) {
    if (absl::Status s = RecoverRecord(ref, &unsettled); !s.ok()) return s;
  }
  for (RecordRef ref : unsettled.superseded) Retire(ref);
  for (RecordRef ref : unsettled.twins) RetireRecord(ref);
  for (RecordRef ref : unsettled.spilled) SettleSpilled(ref);
  for (RecordRef ref : unsettled.live) {
    if (IsNewestHere(ref)) {
      EnterIndex(ref);
    } else {  // it was about to be retired, or was no more than aside: its home is asked
      const Record* record = slabs_->At(ref);
      StepAside(ref, directory::RecordState::kUnconfirmed, {record->version_term, record->version_number});
    }
  }
  recovering_ = true;
  for (RecordRef ref : unsettled.publishing) MakeLive(ref).IgnoreError();  // its conditions were checked before
  recovering_ = false;
  header_->node_generation.store(generation_);  // last: clients that wait for it may ask now
  return absl::OkStatus();
}

void Store::ShowIndex() {
  std::lock_guard lock(mutex_);
  index_->Show();
  for (const uint32_t segment : earlier_indexes_) shared_.Drop(segment);
  earlier_indexes_.clear();
}

void Store::InheritSessions(warden::NodeContext* context) {
  for (warden::InheritedSession& inherited : context->sessions) {
    const uint64_t id = inherited.id;
    absl::StatusOr<std::shared_ptr<Session>> session = Session::Inherit(std::move(inherited));
    if (!session.ok()) {  // its client sees its end
      NoteDamage(StrCat("session ", id, " is ended: ", std::string(session.status().message())));
      warden_->DropSession(id).IgnoreError();
      continue;
    }
    header_->last_session.store(std::max(header_->last_session.load(), (*session)->id));  // an older version did not count
    sessions_[(*session)->id] = *session;
  }
}

void Store::CountInheritedMutable() {
  for (const SharedSegment& segment : inherited_mutable_) {
    if (segment.kind == layout::SegmentKind::kMutableBook) continue;
    (void)blocks_.ReserveBudget(segment.bytes);  // it was within the budget of the process that made it
    ++MutableCountOf(segment.kind).count;
    MutableCountOf(segment.kind).bytes += segment.bytes;
  }
}

absl::Status Store::RecoverRecord(RecordRef ref, Unsettled* unsettled) {
  Record* record = slabs_->At(ref);
  const uint64_t seq = record->seq.load();
  const auto state = static_cast<RecordState>(record->state.load());
  const bool live = seq & 1;
  const bool prepared = !live && state == RecordState::kPrepared;
  const bool retired = !live && (state == RecordState::kLive || state == RecordState::kRetired);
  auto owner = sessions_.find(record->owner_session);
  // A staged put (its block is in an arena) is still in its session's ring and will be executed again.
  const bool keep_draft = owner != sessions_.end() && (record->segment == 0 || !(record->flags & layout::kRecordKernelImmutable));
  const bool spilled = IsSpilled(record);
  const bool draft = !live && !retired && !prepared && !spilled;
  if (draft && state == RecordState::kDraft && !keep_draft) {
    FreeRecord(ref);
    return absl::OkStatus();
  }
  if (HasFile(record)) NoteFile(record);
  if (DataSegment* data = blocks_.Find(record->segment); data != nullptr && !data->arena) extent_records_[record->segment].insert(ref);
  if (retired) {
    SetState(record, RecordState::kRetired);
    retired_.Add({ref, seq - 1, record->nbytes});
    return absl::OkStatus();
  }
  if (state == RecordState::kPublishing && !live) {
    unsettled->publishing.push_back(ref);
    return absl::OkStatus();
  }
  if (draft) {
    record->cluster_state.store(0);  // it was about to be prepared
    owner->second->drafts.insert(ref);
    ++drafts_;
    draft_bytes_ += record->nbytes;
    return absl::OkStatus();
  }
  if (live) SetState(record, RecordState::kLive);
  if (spilled && record->cluster_state == 0) {
    unsettled->spilled.push_back(ref);
    return absl::OkStatus();
  }
  if (record->cluster_state == 0) return RecoverLive(ref, unsettled);
  RecoverDirectory(ref, unsettled);
  return absl::OkStatus();
}

// Aside at first, whatever it is: which of several is in the index shows when all are known. A live one's lease stays as it is,
// for clients go on reading meanwhile.
void Store::RecoverDirectory(RecordRef ref, Unsettled* unsettled) {
  Record* record = slabs_->At(ref);
  const layout::DirectoryPart* part = layout::DirectoryPartOf(record);
  if (directory_->FindAside(NameOf(record), {part->op_session, part->op_count}) != 0) {  // adoption was cut off behind its last step but one
    unsettled->twins.push_back(ref);
    return;
  }
  const auto state = static_cast<directory::RecordState>(record->cluster_state - 1);
  if (state == directory::RecordState::kPrepared) FinishPreparing(record);
  directory_->Add(ref);
  directory_->SetAside(ref);
  CountAside(ref, 1);
  if (state == directory::RecordState::kLive) unsettled->live.push_back(ref);
}

absl::Status Store::TakeBlock(const Record* record) {
  if (record->segment == 0) return absl::OkStatus();
  const DataSegment* data = blocks_.Find(record->segment);
  if (data == nullptr) return absl::DataLossError(StrCat("segment: ", record->segment, " is not here"));
  const bool arena = record->flags & layout::kRecordKernelImmutable;
  if (data->arena != arena) return absl::DataLossError(StrCat("flags: ", int{record->flags}, " do not fit a block in ", data->arena ? "an arena" : "an extent"));
  return blocks_.Reserve(record->segment, record->offset, record->nbytes);
}

absl::Status Store::RecoverLive(RecordRef ref, Unsettled* unsettled) {
  const Record* record = slabs_->At(ref);
  const std::string_view name = NameOf(record);
  const RecordRef other = index_->Find(name, record->name_hash);
  CountLive(ref);
  if (other == 0) {
    names_->Insert(ref);
    return index_->Insert(record->name_hash, ref);
  }
  // The process died between making the new version visible and retiring the old one.
  const Record* rival = slabs_->At(other);
  const bool newer = std::pair(record->version_term, record->version_number) >= std::pair(rival->version_term, rival->version_number);
  if (newer) {
    index_->Replace(record->name_hash, other, ref);
    names_->Replace(other, ref);
  }
  unsettled->superseded.push_back(newer ? other : ref);
  return absl::OkStatus();
}

}  // namespace penstock::server
