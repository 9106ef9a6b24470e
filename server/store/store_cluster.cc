// Records of the cluster's directory: what homes say about them, done so that a process that dies in the middle leaves something
// that the next one settles.
//
// Order of the stores that outlive the process (all seq_cst), and what recovery makes of each step:
//
//   prepare    DirectoryPart, cluster_state | state = kPrepared | version, times
//              before the bar a draft of its session; behind it a prepared record, whose last fields come from its DirectoryPart
//   live       version | cluster_state | expires_ns | seq odd, kLive (the first time) | index | the one before is retired
//              behind the first bar recovery enters it into the index itself, and retires an older one
//   aside      expires_ns = kLeaseBase | cluster_state | out of the index
//              before the second bar it is as it was, with its lease back: nobody was told otherwise
//   drop       out of the index | seq even, kRetired
//              before the bar it is as it was; the home tells it again
#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "proto/strcat.h"
#include "server/store/record_info.h"
#include "server/store/store.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

using directory::OpId;
using layout::DirectoryPart;
using layout::Record;
using layout::RecordRef;
using DirectoryState = directory::RecordState;

namespace {

constexpr absl::Duration kAskAgainAfter = absl::Seconds(1);
constexpr int kQuarantinedPage = 500;

uint8_t ByteOf(DirectoryState state) { return static_cast<uint8_t>(static_cast<uint8_t>(state) + 1); }
bool HasState(const Record* record, DirectoryState state) { return record->cluster_state == ByteOf(state); }

directory::Version VersionIn(const Record* record) { return {record->version_term, record->version_number}; }

bool WasMadeBy(const Record* record, OpId op) {
  if (record->cluster_state == 0) return false;
  const DirectoryPart* part = layout::DirectoryPartOf(record);
  return part->op_session == op.session && part->op_count == op.count;
}

// Readers may be looking at a record that was live before; then it had this very version, unless history was lost meanwhile.
void WriteVersion(Record* record, directory::Version version) {
  if (VersionIn(record) == version) return;
  std::atomic_ref(record->version_term).store(static_cast<uint32_t>(version.term));
  std::atomic_ref(record->version_number).store(version.number);
}

}  // namespace

// ---- finding ----

RecordRef Store::FindDirectory(std::string_view name, OpId op) const {
  const RecordRef ref = index_->Find(name, index_->Hash(name));
  if (ref != 0 && WasMadeBy(slabs_->At(ref), op)) return ref;
  return directory_->FindAside(name, op);
}

// For those who want this version and no other: it does not change, whatever becomes of the name.
RecordRef Store::FindAsideVersion(std::string_view name, uint64_t version) const {
  RecordRef found = 0;
  for (const RecordRef ref : directory_->AsideOf(name)) {
    const Record* record = slabs_->At(ref);
    const bool readable = ((record->seq.load() & 1) != 0 || IsSpilled(record)) && !HasState(record, DirectoryState::kQuarantined);
    if (!readable || record->version_number != version) continue;
    if (found == 0 || record->version_term > slabs_->At(found)->version_term) found = ref;
  }
  return found;
}

directory::HeldRecord Store::HeldOf(RecordRef ref) const {
  const Record* record = slabs_->At(ref);
  const DirectoryPart* part = layout::DirectoryPartOf(record);
  directory::HeldRecord held;
  held.name = NameOf(record);
  held.op = {part->op_session, part->op_count};
  held.state = static_cast<DirectoryState>(record->cluster_state - 1);
  if (held.state != DirectoryState::kPrepared) held.version = VersionIn(record);
  held.prepared_in = part->prepared_in;
  held.nbytes = record->nbytes;
  held.replicas = static_cast<uint8_t>(record->replicas);
  held.cache = !(record->flags & layout::kRecordKeep);
  RecordInfoOf(record).SerializeToString(&held.info);
  return held;
}

std::optional<directory::HeldRecord> Store::FindByOp(std::string_view name, OpId op) const {
  std::lock_guard lock(mutex_);
  const RecordRef ref = FindDirectory(name, op);
  if (ref == 0) return std::nullopt;
  return HeldOf(ref);
}

std::vector<directory::HeldRecord> Store::HeldIn(directory::Partition partition) const {
  std::lock_guard lock(mutex_);
  std::vector<directory::HeldRecord> records;
  records.reserve(directory_->InPartition(partition).size());
  for (const RecordRef ref : directory_->InPartition(partition)) records.push_back(HeldOf(ref));
  return records;
}

std::optional<Published> Store::PublishedByOp(std::string_view name, OpId op) const {
  std::lock_guard lock(mutex_);
  const RecordRef ref = FindDirectory(name, op);
  if (ref == 0 || (!(slabs_->At(ref)->seq.load() & 1) && !IsSpilled(slabs_->At(ref)))) return std::nullopt;
  return PublishedOf(ref);
}

std::optional<OpId> Store::OpOfRequest(std::string_view name, const Session& session, uint64_t request_id) const {
  std::lock_guard lock(mutex_);
  std::vector<RecordRef> refs = directory_->AsideOf(name);
  if (const RecordRef ref = FindOwn(name); ref != 0) refs.push_back(ref);
  for (const RecordRef ref : refs) {
    const Record* record = slabs_->At(ref);
    if (request_id == 0 || record->cluster_state == 0 || record->request_id != request_id || record->owner_session != static_cast<uint32_t>(session.id)) continue;
    const DirectoryPart* part = layout::DirectoryPartOf(record);
    return OpId{part->op_session, part->op_count};
  }
  return std::nullopt;
}

std::optional<OpId> Store::OpOfDraft(const Session& session, RecordRef draft, uint64_t draft_seq) const {
  std::lock_guard lock(mutex_);
  if (!slabs_->IsSlot(draft)) return std::nullopt;
  const Record* record = slabs_->At(draft);
  const auto state = static_cast<layout::RecordState>(record->state.load());
  const bool held = state == layout::RecordState::kPrepared || state == layout::RecordState::kLive;
  if (!held || record->cluster_state == 0 || record->owner_session != static_cast<uint32_t>(session.id)) return std::nullopt;
  if ((record->seq.load() | 1) != (draft_seq | 1)) return std::nullopt;
  const DirectoryPart* part = layout::DirectoryPartOf(record);
  return OpId{part->op_session, part->op_count};
}

// ---- prepare ----

absl::Status Store::Prepare(RecordRef taken, const Preparation& as) {
  std::lock_guard lock(mutex_);
  Record* record = slabs_->At(taken);
  if (!(record->flags & layout::kRecordDirectory)) {
    return absl::FailedPreconditionError(StrCat("put '", NameOf(record), "': this draft was made before the node was in a directory; put it again"));
  }
  if (FindDirectory(NameOf(record), as.op) != 0) {
    return absl::AlreadyExistsError(StrCat("'", NameOf(record), "': this node has a record of operation ", as.op.session, "/", as.op.count));
  }
  const uint64_t now = absl::GetCurrentTimeNanos();
  const uint64_t ttl = record->flags & layout::kRecordBound ? 0 : record->expires_ns.load();
  DirectoryPart* part = layout::DirectoryPartOf(record);
  part->op_session = as.op.session;
  part->op_count = as.op.count;
  part->prepared_in = as.prepared_in;
  part->created_ns = as.created_ns != 0 ? as.created_ns : now;
  part->expires_ns = as.created_ns != 0 ? as.expires_ns : ttl == 0 ? 0 : now + ttl;
  record->cluster_state.store(ByteOf(DirectoryState::kPrepared));
  PENSTOCK_FAULT_POINT("node.directory.preparing");
  record->state.store(static_cast<uint8_t>(layout::RecordState::kPrepared));
  PENSTOCK_FAULT_POINT("node.directory.prepared");
  FinishPreparing(record);
  directory_->Add(taken);
  directory_->SetAside(taken);  // it is counted as a draft already
  return absl::OkStatus();
}

// What the fields held was the draft's: the version that was asked for, a condition, a time to live.
void Store::FinishPreparing(Record* record) {
  record->version_term = 0;
  record->version_number = 0;
  record->created_ns = layout::DirectoryPartOf(record)->created_ns;
  record->expires_ns.store(layout::kLeaseBase);
}

// ---- what homes say ----

void Store::SetDirectoryState(std::string_view name, OpId op, DirectoryState state, directory::Version version) {
  std::lock_guard lock(mutex_);
  const RecordRef ref = FindDirectory(name, op);
  if (ref == 0) return;
  if (state == DirectoryState::kLive) {
    BecomeLive(ref, version);
  } else {
    StepAside(ref, state, version);
  }
}

void Store::BecomeLive(RecordRef ref, directory::Version version) {
  Record* record = slabs_->At(ref);
  if (!directory_->IsAside(ref)) return WriteVersion(record, version);
  CountAside(ref, -1);
  WriteVersion(record, version);
  PENSTOCK_FAULT_POINT("node.directory.version");
  record->cluster_state.store(ByteOf(DirectoryState::kLive));
  CountAside(ref, 1);
  // It may stay, says its home: then it is no memory that is on its way.
  if (const auto asked = asked_.find(ref); asked != asked_.end() && asked->second.why == Wish::kEvict) asked_.erase(asked);
  PENSTOCK_FAULT_POINT("node.directory.live");
  if (IsNewestHere(ref) && !IsDamaged(ref)) EnterIndex(ref);
}

// A copy is nobody's word about what is the newest.
bool Store::IsNewestHere(RecordRef ref) const {
  const Record* record = slabs_->At(ref);
  const RecordRef own = FindOwn(NameOf(record));
  if (own != 0 && VersionIn(slabs_->At(own)) > VersionIn(record)) return false;
  for (const RecordRef other : directory_->AsideOf(NameOf(record))) {
    const Record* aside = slabs_->At(other);
    if (!HasState(aside, DirectoryState::kQuarantined) && VersionIn(aside) > VersionIn(record)) return false;
  }
  return true;
}

// From aside; what the index has of the name gives way. Without room in the index it stays aside: then every get asks.
void Store::EnterIndex(RecordRef ref) {
  Record* record = slabs_->At(ref);
  const uint64_t hash = record->name_hash;
  const RecordRef current = index_->Find(NameOf(record), hash);
  if (current == 0) {
    if (const absl::Status s = index_->Insert(hash, ref); !s.ok()) {
      return LogLocked(v1::Event::WARNING, StrCat("'", NameOf(record), "': no room in the index: ", std::string(s.message())));
    }
  }
  record->expires_ns.store(layout::DirectoryPartOf(record)->expires_ns);
  PENSTOCK_FAULT_POINT("node.directory.leased");
  const bool first = !(record->seq.load() & 1) && !IsSpilled(record);
  if (first) {
    record->seq.fetch_add(1, std::memory_order_seq_cst);  // odd: visible
    record->state.store(static_cast<uint8_t>(layout::RecordState::kLive));
  }
  PENSTOCK_FAULT_POINT("node.directory.published");
  CountAside(ref, -1);
  directory_->TakeBack(ref);
  if (current != 0) {
    index_->Replace(hash, current, ref);
    names_->Replace(current, ref);
    PENSTOCK_FAULT_POINT("node.directory.replaced");
    if (slabs_->At(current)->cluster_state != 0) ForgetDirectory(current);
    Retire(current);
  } else {
    names_->Insert(ref);
  }
  CountLive(ref);
  if (first) ++puts_;
  Changed(hash);
}

void Store::StepAside(RecordRef ref, DirectoryState state, directory::Version version) {
  Record* record = slabs_->At(ref);
  const bool in_index = !directory_->IsAside(ref);
  if (!in_index) CountAside(ref, -1);
  record->expires_ns.store(layout::kLeaseBase);  // from here on nobody is served it by name
  PENSTOCK_FAULT_POINT("node.directory.unleased");
  WriteVersion(record, version);
  record->cluster_state.store(ByteOf(state));
  PENSTOCK_FAULT_POINT("node.directory.aside");
  if (in_index) {
    LeaveIndex(ref);
    directory_->SetAside(ref);
  }
  CountAside(ref, 1);
}

// Live as it is, but not to be had here: another holder serves it, and a copy of that may come.
void Store::StepAsideDamaged(RecordRef ref) {
  if (directory_->IsAside(ref)) return;
  LeaveIndex(ref);
  directory_->SetAside(ref);
  CountAside(ref, 1);
  Ask(ref, Wish::kEvict);
}

void Store::LeaveIndex(RecordRef ref) {
  names_->Erase(ref);
  index_->Remove(slabs_->At(ref)->name_hash, ref);
  UncountLive(ref);
  header_->live_count.store(names_->size(), std::memory_order_relaxed);
}

void Store::DropByOp(std::string_view name, OpId op) {
  std::lock_guard lock(mutex_);
  if (const RecordRef ref = FindDirectory(name, op); ref != 0) DropDirectory(ref);
}

void Store::DropDirectory(RecordRef ref) {
  LogDrop(ref);
  if (directory_->IsAside(ref)) {
    CountAside(ref, -1);
  } else {
    LeaveIndex(ref);
  }
  PENSTOCK_FAULT_POINT("node.directory.dropping");
  ForgetDirectory(ref);
  RetireRecord(ref);
  Changed();
}

// ---- quarantined ----

void Store::ListQuarantined(const v1::QuarantinedRequest& request, v1::QuarantinedResponse* response) const {
  std::lock_guard lock(mutex_);
  if (quarantined_ == 0) return;
  const bool goes_on = request.has_after();
  const std::string_view from = goes_on ? std::string_view(request.after().info().name()) : std::string_view(request.prefix());
  const OpId op = goes_on ? OpId{request.after().op_session(), request.after().op_count() + 1} : OpId{};
  directory_->VisitAside(from, op, [&](RecordRef ref) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const Record* record = slabs_->At(ref);
    if (!NameOf(record).starts_with(request.prefix())) return false;
    if (!HasState(record, DirectoryState::kQuarantined)) return true;
    response->set_more(response->items_size() == kQuarantinedPage);
    if (response->more()) return false;
    v1::QuarantinedTensor* item = response->add_items();
    FillInfo(ref, item->mutable_info());
    const DirectoryPart* part = layout::DirectoryPartOf(record);
    item->mutable_info()->set_expires_ns(part->expires_ns);
    item->mutable_info()->clear_location();
    item->set_op_session(part->op_session);
    item->set_op_count(part->op_count);
    return true;
  });
}

absl::StatusOr<RecordRef> Store::FindQuarantined(std::string_view name, OpId op) const {
  const RecordRef ref = FindDirectory(name, op);
  if (ref != 0 && HasState(slabs_->At(ref), DirectoryState::kQuarantined)) return ref;
  return absl::NotFoundError(StrCat("'", name, "': no tensor of operation ", op.session, "/", op.count, " is quarantined here (any more)"));
}

absl::StatusOr<Store::HeldTensor> Store::HoldQuarantined(std::string_view name, OpId op) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RecordRef> ref = FindQuarantined(name, op);
  if (!ref.ok()) return ref.status();
  if (IsSpilled(slabs_->At(*ref))) return BringBack(*ref);
  return HoldRecord(*ref);
}

absl::Status Store::DropQuarantined(std::string_view name, OpId op) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<RecordRef> ref = FindQuarantined(name, op);
  if (ref.ok()) DropDirectory(*ref);
  return ref.status();
}

// ---- books ----

void Store::LogDrop(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  if (!(record->seq.load() & 1) && !IsSpilled(record)) return;  // nobody ever saw it
  const uint64_t now = absl::GetCurrentTimeNanos();
  if (const auto asked = asked_.find(ref); asked != asked_.end() && asked->second.why != Wish::kDelete) {
    const bool evicted = asked->second.why == Wish::kEvict;
    ++(evicted ? evictions_ : expirations_);
    return Log(evicted ? v1::Event::EVICT : v1::Event::EXPIRE, ref, now);
  }
  const RecordRef newer = index_->Find(NameOf(record), record->name_hash);  // a copy of it, too
  if (newer != 0 && VersionIn(slabs_->At(newer)) > VersionIn(record)) return;
  ++deletes_;
}

void Store::CountAside(RecordRef ref, int64_t count) {
  const Record* record = slabs_->At(ref);
  const bool prepared = HasState(record, DirectoryState::kPrepared);
  (prepared ? drafts_ : withheld_) += count;
  (prepared ? draft_bytes_ : withheld_bytes_) += count * record->nbytes;
  if (HasState(record, DirectoryState::kQuarantined)) quarantined_ += count;
}

void Store::ForgetDirectory(RecordRef ref) {
  directory_->Remove(ref);
  asked_.erase(ref);
}

// ---- what the directory has to be asked for ----

void Store::Ask(RecordRef ref, Wish why) {
  const absl::Time now = MonotonicNow();
  const auto [asked, added] = asked_.try_emplace(ref, Asked{why, now});
  if (!added && now < asked->second.again) return;
  asked->second = {why, now + kAskAgainAfter};
  if (!on_wants_to_go_) return;
  work_.Add([callback = on_wants_to_go_, held = HeldOf(ref), why] { callback(held.name, held.op, why); });
}

// Eviction asks again by itself, when memory is still needed.
absl::Duration Store::AskAgain() {
  absl::Duration next = absl::InfiniteDuration();
  const absl::Time now = MonotonicNow();
  for (const auto& [ref, asked] : asked_) {
    if (asked.why == Wish::kEvict) continue;
    next = std::min(next, kAskAgainAfter);
    if (now >= asked.again && !directory_->IsAside(ref)) Ask(ref, asked.why);
  }
  return next;
}

// Of what eviction has asked for.
uint64_t Store::LeavingBytes(bool aside_only) const {
  uint64_t bytes = 0;
  for (const auto& [ref, asked] : asked_) {
    if (asked.why != Wish::kEvict || HasFile(slabs_->At(ref)) || (aside_only && !directory_->IsAside(ref))) continue;
    bytes += std::max<uint64_t>(slabs_->At(ref)->nbytes, aside_only ? 0 : 1);
  }
  return bytes;
}

}  // namespace penstock::server
