// Tensors that go with their session (layout::kRecordBound), and what makes them stay: the members of a snapshot, until it is
// committed. Another session may make them stay: a process that ends a checkpoint whose tensors its trainer has put.
#include <vector>

#include "proto/names.h"
#include "proto/strcat.h"
#include "server/store/store.h"
#include "transport/fault_point.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

namespace {

absl::Status CheckPrefix(std::string_view prefix) {
  if (absl::Status s = ValidatePrefix(prefix); !s.ok()) return s;
  if (prefix.starts_with(kReservedPrefix)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("prefix of what is bound: '", prefix, "' does not begin with ", kReservedPrefix));
}

}  // namespace

Session* Store::OwnerOf(const Record* record) {
  const auto owner = sessions_.find(record->owner_session);
  return owner == sessions_.end() ? nullptr : owner->second.get();
}

// Before the warden forgets the session: a node's process that dies in between finds it again, and ends it again.
void Store::RemoveBound(Session& session, std::string_view prefix) {
  std::vector<RecordRef> bound;
  for (const RecordRef ref : session.bound) {
    if (NameOf(slabs_->At(ref)).starts_with(prefix)) bound.push_back(ref);
  }
  for (const RecordRef ref : bound) session.bound.erase(ref);
  for (const RecordRef ref : bound) {
    if (slabs_->At(ref)->cluster_state != 0) {
      Ask(ref, Wish::kDelete);
    } else {
      Remove(ref, v1::Event::DELETE);
    }
  }
}

// A request of a session that an earlier process of the node had may come a second time, after it was done.
absl::Status Store::CheckKept(const Session& session, const Kept& kept) const {
  if (!kept.prefix.empty()) {
    if (absl::Status s = CheckPrefix(kept.prefix); !s.ok()) return s;
  }
  for (const std::string& name : kept.staged) {
    if (absl::Status s = CheckPrefix(name); !s.ok()) return s;
    const RecordRef ref = FindOwn(name);
    if (ref == 0) return absl::AbortedError(StrCat("'", name, "' is gone: the process that had put it has ended, or has dropped it; begin again"));
    if ((slabs_->At(ref)->flags & layout::kRecordBound) || session.inherited) continue;
    return absl::AbortedError(StrCat("'", name, "' belongs to another snapshot; stage it again"));
  }
  return absl::OkStatus();
}

void Store::KeepBound(Session& session, const Kept& kept) {
  const auto keep = [this](RecordRef ref) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Record* record = slabs_->At(ref);
    Untrack(ref);
    record->flags = static_cast<uint8_t>(record->flags & ~layout::kRecordBound);
    Track(ref);
  };
  absl::erase_if(session.bound, [&](RecordRef ref) {
    if (kept.prefix.empty() || !NameOf(slabs_->At(ref)).starts_with(kept.prefix)) return false;
    keep(ref);
    return true;
  });
  for (const std::string& name : kept.staged) {
    const RecordRef ref = FindOwn(name);
    if (Session* owner = OwnerOf(slabs_->At(ref)); owner != nullptr) owner->bound.erase(ref);
    keep(ref);
  }
}

absl::Status Store::Keep(Session& session, const Kept& kept) {
  std::lock_guard lock(mutex_);
  if (absl::Status s = CheckKept(session, kept); !s.ok()) return s;
  KeepBound(session, kept);
  return absl::OkStatus();
}

absl::Status Store::DropBound(Session& session, std::string_view prefix) {
  if (absl::Status s = CheckPrefix(prefix); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  RemoveBound(session, prefix);
  return absl::OkStatus();
}

// If the node's process dies in the middle, the request is still in the session's ring and is done again; the client's death in
// the same moment leaves members that nobody finds, but never a snapshot that lacks some.
absl::StatusOr<Published> Store::Commit(Session& session, RecordRef ref, uint64_t seq, const Kept& kept, LeaseRule leases) {
  std::lock_guard lock(mutex_);
  if (session.inherited && slabs_->IsSlot(ref)) {
    const Record* record = slabs_->At(ref);
    const bool repeated = record->seq.load() == seq + 1 && record->owner_session == static_cast<uint32_t>(session.id);
    if (repeated) return PublishedOf(ref);
  }
  const absl::StatusOr<Record*> draft = FindDraft(session, ref, seq);
  if (!draft.ok()) return draft.status();
  const std::string_view name = NameOf(*draft);
  const RecordRef current = FindOwn(name);
  if (current == 0) return absl::FailedPreconditionError(StrCat("commit '", name, "': this node is not its home"));
  if (absl::Status s = CheckLeases(name, leases); !s.ok()) return s;
  if (absl::Status s = CheckConditions(name, (*draft)->version_number, (*draft)->created_ns, current); !s.ok()) return s;
  if (absl::Status s = CheckKept(session, kept); !s.ok()) return s;
  KeepBound(session, kept);
  PENSTOCK_FAULT_POINT("node.commit.kept");
  session.drafts.erase(ref);
  CountTakenOut(ref);
  return MakeLive(ref);
}

}  // namespace penstock::server
