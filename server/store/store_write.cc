// Reserve, Publish: how a tensor comes to be.
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/time/clock.h"
#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/store/record_state.h"
#include "server/store/store.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;
using layout::RecordState;

namespace {

constexpr char kLeasedUrl[] = "penstock/leased";

}  // namespace

bool IsLeased(const absl::Status& status) { return status.GetPayload(kLeasedUrl).has_value(); }

absl::Status Store::CheckLeases(std::string_view name, LeaseRule rule) const {
  if (leases_.empty() || rule == LeaseRule::kRecalled || FindOwn(name) == 0 || !leases_.Held(index_->Hash(name), MonotonicNow())) return absl::OkStatus();
  absl::Status leased = absl::UnavailableError(StrCat("'", name, "': other nodes may still serve the present version; try again"));
  leased.SetPayload(kLeasedUrl, absl::Cord());
  return leased;
}

absl::Status Store::CheckName(const CreateSpec& spec) {
  if (spec.fetched) return ValidateName(spec.name);  // its home has checked whose it is
  return spec.purpose == layout::Purpose::kUser ? ValidateUserName(spec.name) : ValidateInternalName(spec.name);
}

absl::Status Store::CheckSpec(const CreateSpec& spec) const {
  if (absl::Status s = CheckName(spec); !s.ok()) return s;
  if (!IsValid(spec.dtype)) {
    return absl::InvalidArgumentError(StrCat("dtype: ", static_cast<int>(spec.dtype), " is not a dtype of this store"));
  }
  absl::StatusOr<uint64_t> bytes = ByteSize(spec.dtype, spec.shape);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != spec.nbytes) {
    return absl::InvalidArgumentError(StrCat("nbytes: ", spec.nbytes, " is not the size of a ", DTypeName(spec.dtype),
                                             " tensor of shape ", spec.shape.ToString(), " (", *bytes, ")"));
  }
  if (limits_.directory && (spec.replicas < 1 || spec.replicas > 255)) {
    return absl::InvalidArgumentError(StrCat("replicas: ", spec.replicas, " asked for; 1 to 255 are allowed"));
  }
  if (!limits_.directory && spec.replicas != 1) {
    return absl::InvalidArgumentError(StrCat("replicas: ", spec.replicas, " asked for, but this node is alone: 1 is allowed"));
  }
  if (spec.ttl_ns > uint64_t{1} << 60) return absl::InvalidArgumentError("ttl: longer than 36 years; leave it out");
  if (spec.metadata.empty()) return absl::OkStatus();
  absl::StatusOr<std::map<std::string, std::string>> metadata = layout::DecodeMetadata(spec.metadata);
  if (!metadata.ok()) return metadata.status();
  return ValidateMetadata(*metadata);
}

absl::Status Store::CheckConditions(std::string_view name, uint64_t version, uint64_t if_version, RecordRef current) const {
  if (current != 0 && slabs_->At(current)->cluster_state != 0) {
    return absl::FailedPreconditionError(StrCat("put '", name, "': the cluster's directory decides about this name, not this node alone"));
  }
  const uint64_t present = current == 0 ? 0 : slabs_->At(current)->version_number;
  if (if_version == 0 && current != 0) {
    return absl::AlreadyExistsError(StrCat("put '", name, "': it exists (version ", present, ") and if_absent was asked for"));
  }
  if (if_version != layout::kAnyVersion && if_version != present) {
    return absl::AbortedError(StrCat("put '", name, "': if_version=", if_version, ", but the present version is ", present,
                                     current == 0 ? " (absent)" : ""));
  }
  const uint64_t last = current == 0 ? deleted_.Last(index_->Hash(name)) : present;
  if (version != 0 && version <= last) {
    return absl::AbortedError(StrCat("put '", name, "': version=", version, " is not larger than ", last, ", the last one of this name"));
  }
  return absl::OkStatus();
}

RecordRef Store::FindRepetition(const Session& session, const CreateSpec& spec, RecordRef current) {
  if (!session.inherited || spec.request_id == 0) return 0;
  auto same = [&](RecordRef ref) {
    const Record* record = slabs_->At(ref);
    return record->owner_session == static_cast<uint32_t>(session.id) && record->request_id == spec.request_id;
  };
  if (current != 0 && same(current)) return current;
  for (RecordRef draft : session.drafts) {
    if (same(draft)) return draft;
  }
  return 0;
}

absl::StatusOr<Placed> Store::Reserve(Session& session, const CreateSpec& spec) {
  if (absl::Status s = CheckSpec(spec); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  if (session.ended) return absl::UnavailableError("the session has ended");
  if (session.drafts.size() >= limits_.max_drafts_per_session) {
    return absl::ResourceExhaustedError(StrCat("create '", spec.name, "': this session has ", session.drafts.size(),
                                               " drafts, the most that one may have; publish or abort some"));
  }
  const RecordRef current = index_->Find(spec.name, index_->Hash(spec.name));
  if (const RecordRef repeated = FindRepetition(session, spec, current); repeated != 0) {
    Record* record = slabs_->At(repeated);
    const bool live = (record->seq.load() & 1) || IsSpilled(record);
    return Placed{.kind = live ? Placed::Kind::kDone : Placed::Kind::kPlaced, .record = repeated, .record_seq = record->seq.load(),
                  .block = {record->segment, record->offset, blocks_.Address(record->segment, record->offset)},
                  .nbytes = record->nbytes, .checksum = live ? nullptr : layout::ChecksumPartOf(record)};
  }
  absl::Status conditions;
  if (spec.fetched) {
    conditions = CheckCopy(spec.name, current);
  } else if (!spec.judged_later) {
    conditions = CheckConditions(spec.name, spec.version, spec.if_version, current);
  }
  if (!conditions.ok()) return conditions;
  if (limits_.max_tensors != 0 && current == 0) {
    const absl::StatusOr<Placed::Kind> room = MakeRoomForOne(spec);
    if (!room.ok()) return room.status();
    if (*room == Placed::Kind::kWait) return Placed{.kind = *room};
  }
  absl::StatusOr<Placed> placed =
      FindBlock({.why = "put", .name = spec.name, .nbytes = spec.nbytes, .in_arena = spec.in_arena, .session = session.id});
  if (!placed.ok() || placed->kind != Placed::Kind::kPlaced) return placed;
  const uint64_t record_bytes = layout::RecordBytes(spec.shape.rank(), spec.name.size(), spec.metadata.size());
  const uint64_t parts = layout::PartsBytes(FlagsOf(spec, placed->block));
  absl::StatusOr<RecordRef> ref = slabs_->Allocate(parts == 0 ? record_bytes : layout::PartsOffset(record_bytes) + parts);
  if (!ref.ok()) {
    blocks_.Free(placed->block.segment, placed->block.offset, spec.nbytes);
    return ref.status();
  }
  WriteDraft(slabs_->At(*ref), session, spec, placed->block);
  session.drafts.insert(*ref);
  ++drafts_;
  draft_bytes_ += spec.nbytes;
  if (!spec.in_arena && placed->block.segment != 0) extent_records_[placed->block.segment].insert(*ref);
  placed->record = *ref;
  placed->nbytes = spec.nbytes;
  placed->checksum = layout::ChecksumPartOf(slabs_->At(*ref));
  placed->record_seq = slabs_->At(*ref)->seq.load();
  PENSTOCK_FAULT_POINT("node.reserve.done");
  return placed;
}

// For a name that is not here yet: what replaces a tensor adds none. kWait: others must let go of one first.
absl::StatusOr<Placed::Kind> Store::MakeRoomForOne(const CreateSpec& spec) {
  const auto count = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return names_->size() + withheld_ + drafts_; };
  while (count() >= limits_.max_tensors) {
    const uint64_t before = count();
    bool leased = false;
    if (drafts_ < limits_.max_tensors) Evict(1, &leased);
    if (count() < before) continue;
    if (leased) {
      waits_for_leases_ = true;
      return Placed::Kind::kWait;
    }
    return absl::ResourceExhaustedError(StrCat("put '", spec.name, "': this node keeps ", before, " tensors and drafts, the most it may (--max_tensors=",
                                               limits_.max_tensors, "), and none of them may be evicted; delete some"));
  }
  return Placed::Kind::kPlaced;
}

uint8_t Store::FlagsOf(const CreateSpec& spec, const Block& block) const {
  return static_cast<uint8_t>((spec.keep ? layout::kRecordKeep : 0) | (spec.soft_pin ? layout::kRecordSoftPin : 0) |
                              (spec.fetched ? layout::kRecordFetched : 0) | (spec.purpose == layout::Purpose::kBound ? layout::kRecordBound : 0) |
                              (spec.in_arena || block.segment == 0 ? layout::kRecordKernelImmutable : 0) |
                              (limits_.directory ? layout::kRecordDirectory : 0) |
                              (limits_.checksum || spec.crc32c ? layout::kRecordChecksum : 0));
}

void Store::FillRecord(Record* record, const CreateSpec& spec) const {
  record->name_hash = index_->Hash(spec.name);
  record->nbytes = spec.nbytes;
  record->name_bytes = static_cast<uint16_t>(spec.name.size());
  record->metadata_bytes = static_cast<uint16_t>(spec.metadata.size());
  record->dtype = static_cast<uint8_t>(spec.dtype);
  record->rank = static_cast<uint8_t>(spec.shape.rank());
  record->request_id = spec.request_id;
  record->replicas = spec.replicas;
  record->cluster_state.store(0, std::memory_order_relaxed);
  char* at = reinterpret_cast<char*>(record) + layout::kRecordFixedBytes;
  std::memcpy(at, spec.shape.dims().data(), 8 * spec.shape.rank());
  at += 8 * spec.shape.rank();
  std::memcpy(at, spec.name.data(), spec.name.size());
  if (!spec.metadata.empty()) std::memcpy(at + spec.name.size(), spec.metadata.data(), spec.metadata.size());
}

void Store::WriteDraft(Record* record, const Session& session, const CreateSpec& spec, const Block& block) {
  FillRecord(record, spec);
  record->version_number = spec.version;
  record->version_term = spec.version_term;
  record->segment = block.segment;
  record->offset = block.offset;
  record->created_ns = spec.fetched ? spec.created_ns : spec.if_version;
  record->flags = FlagsOf(spec, block);
  record->expires_ns.store(spec.fetched ? layout::kLeaseBase : spec.ttl_ns);
  record->owner_session = static_cast<uint32_t>(session.id);
  if (limits_.directory) *layout::DirectoryPartOf(record) = {};
  if (layout::ChecksumPart* part = layout::ChecksumPartOf(record)) {
    *part = {spec.crc32c.value_or(0), spec.crc32c ? layout::ChecksumState::kExpected : layout::ChecksumState::kNone};
  }
  SetState(record, RecordState::kDraft);
}

absl::StatusOr<Record*> Store::FindDraft(const Session& session, RecordRef ref, uint64_t seq) {
  if (!slabs_->IsSlot(ref) || !session.drafts.contains(ref) || slabs_->At(ref)->seq.load() != seq) {
    return absl::NotFoundError(StrCat("draft ", ref, "/", seq, ": this session has no such draft (published, aborted, or never made)"));
  }
  return slabs_->At(ref);
}

absl::StatusOr<Published> Store::Publish(Session& session, RecordRef ref, uint64_t seq, LeaseRule leases) {
  PENSTOCK_FAULT_POINT("node.publish.before");
  std::lock_guard lock(mutex_);
  if (session.inherited && slabs_->IsSlot(ref)) {
    const Record* record = slabs_->At(ref);
    if (record->seq.load() == seq + 1 && record->owner_session == static_cast<uint32_t>(session.id)) return PublishedOf(ref);
  }
  absl::StatusOr<Record*> draft = FindDraft(session, ref, seq);
  if (!draft.ok()) return draft.status();
  if ((*draft)->flags & layout::kRecordFetched) leases = LeaseRule::kRecalled;  // a copy changes nothing
  if (absl::Status s = CheckLeases(NameOf(*draft), leases); !s.ok()) return s;
  session.drafts.erase(ref);
  --drafts_;
  draft_bytes_ -= (*draft)->nbytes;
  return MakeLive(ref);
}

absl::StatusOr<Store::TakenDraft> Store::TakeDraft(Session& session, RecordRef ref, uint64_t seq) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<Record*> found = FindDraft(session, ref, seq);
  if (!found.ok()) return found.status();
  const Record* record = *found;
  session.drafts.erase(ref);  // and stays in the books until it is over
  TakenDraft taken{.spec = {}, .record = ref, .request_id = record->request_id, .nbytes = record->nbytes};
  if (record->nbytes > 0) taken.data = blocks_.Address(record->segment, record->offset);
  taken.checksum = layout::ChecksumPartOf(*found);
  taken.spec.set_name(std::string(NameOf(record)));
  taken.spec.set_dtype(record->dtype);
  for (int i = 0; i < record->rank; ++i) taken.spec.add_shape(layout::RecordShape(record)[i]);
  taken.spec.set_version(record->version_number);
  if (record->created_ns != layout::kAnyVersion) taken.spec.set_if_version(record->created_ns);
  taken.spec.set_ttl_ns(record->expires_ns);
  taken.spec.set_keep(record->flags & layout::kRecordKeep);
  taken.spec.set_soft_pin(record->flags & layout::kRecordSoftPin);
  taken.spec.set_replicas(record->replicas);
  const auto metadata = layout::DecodeMetadata({layout::RecordMetadata(record), record->metadata_bytes});
  for (const auto& [key, value] : *metadata) (*taken.spec.mutable_metadata())[key] = value;
  taken.spec.set_internal(NameOf(record).starts_with(kReservedPrefix));
  return taken;
}

absl::StatusOr<Published> Store::PublishTaken(RecordRef ref, LeaseRule leases) {
  std::lock_guard lock(mutex_);
  Record* record = slabs_->At(ref);
  if (absl::Status s = CheckLeases(NameOf(record), leases); !s.ok()) return s;
  CountTakenOut(ref);
  if ((record->flags & layout::kRecordBound) && OwnerOf(record) == nullptr) {
    FreeRecord(ref);
    return absl::AbortedError("the session that this would be bound to has ended");
  }
  return MakeLive(ref);
}

void Store::CountTakenOut(RecordRef ref) {
  --drafts_;
  draft_bytes_ -= slabs_->At(ref)->nbytes;
}

absl::StatusOr<Published> Store::PublishAsCopy(RecordRef ref, const Published& original) {
  std::lock_guard lock(mutex_);
  Record* record = slabs_->At(ref);
  record->flags = static_cast<uint8_t>((record->flags & ~(layout::kRecordKeep | layout::kRecordBound)) | layout::kRecordFetched);
  record->version_number = original.version_number;
  record->version_term = original.version_term;
  record->created_ns = original.created_ns;
  record->expires_ns.store(layout::kLeaseBase);
  CountTakenOut(ref);
  return MakeLive(ref);
}

void Store::DropTaken(RecordRef ref) {
  std::lock_guard lock(mutex_);
  CountTakenOut(ref);
  FreeRecord(ref);
  Changed();
}

absl::StatusOr<Published> Store::MakeLive(RecordRef ref) {
  Record* record = slabs_->At(ref);
  const std::string_view name = NameOf(record);
  const uint64_t hash = record->name_hash;
  const RecordRef current = index_->Find(name, hash);
  const bool fetched = record->flags & layout::kRecordFetched;
  absl::Status conditions = fetched ? CheckCopy(name, current) : recovering_ ? absl::OkStatus() : MayServeNames();
  if (conditions.ok() && !fetched) conditions = CheckConditions(name, record->version_number, record->created_ns, current);
  if (conditions.ok() && current == 0) conditions = index_->Insert(hash, ref);  // a hint to a record that is not live yet
  if (!conditions.ok()) {
    FreeUnlessHeld(ref);
    return conditions;
  }
  const uint64_t last = fetched ? 0 : current == 0 ? deleted_.Last(hash) : slabs_->At(current)->version_number;
  SetState(record, RecordState::kPublishing);
  PENSTOCK_FAULT_POINT("node.publish.state");
  CompletePublish(record, last);
  PENSTOCK_FAULT_POINT("node.publish.live");
  if (current != 0) {
    index_->Replace(hash, current, ref);
    names_->Replace(current, ref);
    PENSTOCK_FAULT_POINT("node.publish.replaced");
    Retire(current);
  } else {
    names_->Insert(ref);
  }
  CountLive(ref);
  if (fetched) {
    Changed(hash);
  } else {
    ++puts_;
    Log(v1::Event::PUT, ref, record->created_ns);
  }
  return PublishedOf(ref);
}

// A tensor of this node's own is never replaced by a copy of somebody else's.
absl::Status Store::CheckCopy(std::string_view name, RecordRef current) const {
  if (current == 0 || (slabs_->At(current)->flags & layout::kRecordFetched)) return absl::OkStatus();
  return absl::AbortedError(StrCat("copy of '", name, "': this node has a tensor of that name itself"));
}

RecordRef Store::FindOwn(std::string_view name) const {
  const RecordRef ref = index_->Find(name, index_->Hash(name));
  return ref != 0 && !(slabs_->At(ref)->flags & layout::kRecordFetched) ? ref : 0;
}

bool Store::HasOwn(std::string_view name) const {
  std::lock_guard lock(mutex_);
  return FindOwn(name) != 0;
}

bool Store::HasOwnNameOf(RecordRef draft) const {
  std::lock_guard lock(mutex_);
  return slabs_->IsSlot(draft) && FindOwn(NameOf(slabs_->At(draft))) != 0;
}

std::string Store::DraftName(RecordRef draft) const {
  std::lock_guard lock(mutex_);
  return slabs_->IsSlot(draft) ? std::string(NameOf(slabs_->At(draft))) : std::string();
}

uint64_t Store::DraftBytes(RecordRef draft) const {
  std::lock_guard lock(mutex_);
  return slabs_->IsSlot(draft) ? slabs_->At(draft)->nbytes : 0;
}

bool Store::WantsChecksum(RecordRef draft) const {
  std::lock_guard lock(mutex_);
  if (!slabs_->IsSlot(draft) || (slabs_->At(draft)->seq.load() & 1)) return false;
  const layout::ChecksumPart* part = layout::ChecksumPartOf(slabs_->At(draft));
  return part != nullptr && part->state != layout::ChecksumState::kKnown;
}

std::optional<Published> Store::PublishedBy(std::string_view name, uint64_t request_id) const {
  std::lock_guard lock(mutex_);
  const RecordRef ref = FindOwn(name);
  if (ref == 0 || request_id == 0 || slabs_->At(ref)->request_id != request_id) return std::nullopt;
  return PublishedOf(ref);
}

void Store::DropCopy(std::string_view name) {
  std::lock_guard lock(mutex_);
  const RecordRef ref = index_->Find(name, index_->Hash(name));
  if (ref != 0 && (slabs_->At(ref)->flags & layout::kRecordFetched)) Remove(ref, v1::Event::EVICT);
}

// From kPublishing to live. A node that finds a record in between after a restart calls it again.
void Store::CompletePublish(Record* record, uint64_t last_version) {
  const uint64_t now = absl::GetCurrentTimeNanos();
  if (record->version_number <= last_version) record->version_number = last_version + 1;
  if (!(record->flags & layout::kRecordFetched)) record->created_ns = now;
  if (record->flags & layout::kRecordBound) record->expires_ns = 0;  // a time to live is for where it cannot be bound: at another node
  if (record->expires_ns != 0 && record->expires_ns < layout::kLeaseBase) record->expires_ns += now;
  record->seq.fetch_add(1, std::memory_order_seq_cst);  // odd: visible
  SetState(record, RecordState::kLive);
}

// A copy's is none: its home's word ends it.
uint64_t Store::ExpiryOf(const Record* record) {
  if (record->flags & layout::kRecordFetched) return 0;
  return record->cluster_state != 0 ? layout::DirectoryPartOf(record)->expires_ns : record->expires_ns.load();
}

}  // namespace penstock::server
