// The end of tensors: Abort, Delete, overwritten and retired records, leases that go with them; and how changes are counted and told.
#include <algorithm>

#include "proto/strcat.h"
#include "server/store/record_state.h"
#include "server/store/store.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;
using layout::RecordState;

// The books of a live record, which is among the names.
void Store::CountLive(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  tensor_bytes_ += record->nbytes;
  if (const uint64_t expiry = ExpiryOf(record); expiry != 0) expiries_.emplace(expiry, ref);
  if (!(record->flags & layout::kRecordKeep)) cache_bytes_ += record->nbytes;
  Track(ref);
  if (record->flags & layout::kRecordBound) {
    Session* owner = OwnerOf(record);
    if (owner != nullptr) {
      owner->bound.insert(ref);
    } else if (record->cluster_state != 0) {
      Ask(ref, Wish::kDelete);
    }
  }
  header_->live_count.store(names_->size(), std::memory_order_relaxed);
}

void Store::UncountLive(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  tensor_bytes_ -= record->nbytes;
  if (const uint64_t expiry = ExpiryOf(record); expiry != 0) expiries_.erase({expiry, ref});
  if (!(record->flags & layout::kRecordKeep)) cache_bytes_ -= record->nbytes;
  Untrack(ref);
  if (record->flags & layout::kRecordBound) {
    if (Session* owner = OwnerOf(record); owner != nullptr) owner->bound.erase(ref);
  }
}

void Store::Retire(RecordRef ref) {
  UncountLive(ref);
  RetireRecord(ref);
}

// One that never was live is held, by readers on other hosts, as what it would have been.
void Store::RetireRecord(RecordRef ref) {
  Record* record = slabs_->At(ref);
  if (IsSpilled(record)) return FreeRecord(ref);  // nobody can have pinned it
  const uint64_t live_seq = record->seq.load() | 1;
  if (record->seq.load() == live_seq) record->seq.fetch_add(1, std::memory_order_seq_cst);  // even: no new reader can pin it
  PENSTOCK_FAULT_POINT("node.retire.even");
  SetState(record, RecordState::kRetired);
  retired_.Add({ref, live_seq, record->nbytes});
  if (retired_.unscanned() >= retired_.scan_after() || retired_.bytes() > limits_.memory_bytes / 16) Reclaim();
}

// Takes a live record out of the names and retires it.
void Store::Remove(RecordRef ref, v1::Event::Kind why) {
  const Record* record = slabs_->At(ref);
  if (!(record->flags & layout::kRecordFetched)) Log(why, ref, absl::GetCurrentTimeNanos());  // a copy's comings and goings are no event
  names_->Erase(ref);
  index_->Remove(record->name_hash, ref);
  deleted_.Remember(record->name_hash, record->version_number);
  if (record->version_number > header_->max_deleted_version.load()) header_->max_deleted_version.store(record->version_number);
  header_->live_count.store(names_->size(), std::memory_order_relaxed);
  Retire(ref);
}

void Store::FreeRecord(RecordRef ref) {
  Record* record = slabs_->At(ref);
  if (auto it = extent_records_.find(record->segment); it != extent_records_.end()) {
    it->second.erase(ref);
    if (it->second.empty()) extent_records_.erase(it);
  }
  blocks_.Free(record->segment, record->offset, record->nbytes);
  SetState(record, RecordState::kFree);
  if (HasFile(record)) RemoveFile(record->offset);
  slabs_->Free(ref);
}

void Store::FreeDraft(RecordRef ref) {
  --drafts_;
  draft_bytes_ -= slabs_->At(ref)->nbytes;
  FreeUnlessHeld(ref);
}

// Of HoldDraft. Such a one goes when nobody holds it any more, as what was live does.
void Store::FreeUnlessHeld(RecordRef draft) {
  if (held_.contains(layout::PinWord(draft, slabs_->At(draft)->seq.load() | 1))) {
    RetireRecord(draft);
  } else {
    FreeRecord(draft);
  }
}

absl::Status Store::Abort(Session& session, RecordRef ref, uint64_t seq) {
  std::lock_guard lock(mutex_);
  absl::StatusOr<Record*> draft = FindDraft(session, ref, seq);
  if (!draft.ok()) return draft.status();
  session.drafts.erase(ref);
  FreeDraft(ref);
  Changed();
  return absl::OkStatus();
}

absl::StatusOr<Published> Store::Delete(std::string_view name, uint64_t version, LeaseRule leases) {
  PENSTOCK_FAULT_POINT("node.delete.before");
  std::lock_guard lock(mutex_);
  absl::StatusOr<RecordRef> ref = FindLive(name, version);
  if (!ref.ok()) return ref.status();
  if (slabs_->At(*ref)->cluster_state != 0) {
    return absl::FailedPreconditionError(StrCat("delete '", name, "': the cluster's directory decides about this name, not this node alone"));
  }
  if (absl::Status s = CheckLeases(name, leases); !s.ok()) return s;
  const Published deleted = PublishedOf(*ref);
  Remove(*ref, v1::Event::DELETE);
  ++deletes_;
  return deleted;
}

absl::StatusOr<uint64_t> Store::DeletePrefix(std::string_view prefix, std::vector<std::string>* leased) {
  if (absl::Status s = ValidatePrefix(prefix); !s.ok()) return s;
  const bool with_reserved = prefix.starts_with(kReservedPrefix);
  uint64_t count = 0;
  std::string after;  // the last one that was left
  while (true) {
    std::lock_guard lock(mutex_);
    std::vector<RecordRef> batch;  // bounded, so that others get their turn
    for (auto it = after.empty() ? names_->LowerBound(prefix) : names_->UpperBound(after); it != names_->end() && batch.size() < 1000; ++it) {
      if (!with_reserved && (it = names_->SkipReserved(it)) == names_->end()) break;
      const RecordRef ref = names_->At(it);
      if (!NameOf(slabs_->At(ref)).starts_with(prefix)) break;
      batch.push_back(ref);
    }
    if (batch.empty()) return count;
    for (RecordRef ref : batch) {
      if (slabs_->At(ref)->cluster_state != 0) {  // its home's matter
        after = NameOf(slabs_->At(ref));
        continue;
      }
      const bool own = !(slabs_->At(ref)->flags & layout::kRecordFetched);
      if (own && !CheckLeases(NameOf(slabs_->At(ref)), LeaseRule::kRespect).ok()) {
        after = NameOf(slabs_->At(ref));
        leased->push_back(after);
        continue;
      }
      Remove(ref, v1::Event::DELETE);
      deletes_ += own;
      count += own;
    }
  }
}

void Store::EndLeases(std::string_view name) {
  std::lock_guard lock(mutex_);
  leases_.End(index_->Hash(name));
}

bool Store::may_be_leased() const {
  std::lock_guard lock(mutex_);
  return !leases_.empty();
}

absl::Time Store::leases_of_the_past() const {
  std::lock_guard lock(mutex_);
  return leases_.all_until();
}

void Store::LeaseCopy(RecordRef ref, uint64_t seq, absl::Time until) {
  std::lock_guard lock(mutex_);
  Record* record = slabs_->At(ref);
  if (record->seq.load() != seq || !(seq & 1) || !(record->flags & layout::kRecordFetched)) return;
  record->expires_ns.store(layout::kLeaseBase + static_cast<uint64_t>(std::max<int64_t>(absl::ToUnixNanos(until), 0)));
}

void Store::EndCopyLease(std::string_view name) {
  std::lock_guard lock(mutex_);
  const RecordRef ref = index_->Find(name, index_->Hash(name));
  if (ref != 0 && (slabs_->At(ref)->flags & layout::kRecordFetched)) slabs_->At(ref)->expires_ns.store(layout::kLeaseBase);
}

Published Store::PublishedOf(RecordRef ref) const {
  const Record* record = slabs_->At(ref);
  const bool fetched = record->flags & layout::kRecordFetched;
  return {.record = ref, .record_seq = record->seq.load(), .version_term = record->version_term,
          .version_number = record->version_number, .created_ns = record->created_ns, .fetched = fetched,
          .leased = fetched && layout::kLeaseBase + static_cast<uint64_t>(MonotonicNanos()) < record->expires_ns, .spilled = IsSpilled(record)};
}

void Store::Log(v1::Event::Kind kind, RecordRef ref, uint64_t time_ns) {
  const Record& record = *slabs_->At(ref);
  events_.Append(kind, time_ns, ref, record);
  Changed(kind == v1::Event::PUT ? record.name_hash : 0);
}

void Store::Changed(uint64_t name_hash) {
  change_epoch_.fetch_add(1);
  changed_.notify_all();
  if (on_change_ && parked_.load()) on_change_(name_hash);
}

}  // namespace penstock::server
