// Tensors that go with their session (layout::kRecordBound), and what makes them stay: the members of a snapshot, until it is
// committed.
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
  return absl::InvalidArgumentError(StrCat("keep_prefix: '", prefix, "' does not begin with ", kReservedPrefix));
}

}  // namespace

Session* Store::OwnerOf(const Record* record) {
  const auto owner = sessions_.find(record->owner_session);
  return owner == sessions_.end() ? nullptr : owner->second.get();
}

// Before the warden forgets the session: a node's process that dies in between finds it again, and ends it again.
void Store::RemoveBound(Session& session) {
  const std::vector<RecordRef> bound(session.bound.begin(), session.bound.end());
  session.bound.clear();
  for (const RecordRef ref : bound) Remove(ref, v1::Event::DELETE);
}

void Store::KeepBound(Session& session, std::string_view prefix) {
  absl::erase_if(session.bound, [&](RecordRef ref) {
    Record* record = slabs_->At(ref);
    if (!NameOf(record).starts_with(prefix)) return false;
    record->flags = static_cast<uint8_t>(record->flags & ~layout::kRecordBound);
    return true;
  });
}

absl::Status Store::Keep(Session& session, std::string_view prefix) {
  if (absl::Status s = CheckPrefix(prefix); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  KeepBound(session, prefix);
  return absl::OkStatus();
}

// If the node's process dies in the middle, the request is still in the session's ring and is done again; the client's death in
// the same moment leaves members that nobody finds, but never a snapshot that lacks some.
absl::StatusOr<Published> Store::Commit(Session& session, RecordRef ref, uint64_t seq, std::string_view prefix, LeaseRule leases) {
  if (absl::Status s = CheckPrefix(prefix); !s.ok()) return s;
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
  KeepBound(session, prefix);
  PENSTOCK_FAULT_POINT("node.commit.kept");
  session.drafts.erase(ref);
  CountTakenOut(ref);
  return MakeLive(ref);
}

}  // namespace penstock::server
