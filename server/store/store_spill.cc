// The spill directory: tensors of class keep that have no room in memory, and how they come back.
//
// A record without a block (spill_books.h) takes the place of the one with it, or the other way round. Order of what outlives the
// process, and what the next one makes of it:
//
//   out    file has its name | state = kSpilledState | index | the record with the block is retired
//          before the first bar the file is removed; then there are two of one version: the one with the block stays, until it is retired
//   back   record with a block is live | index | the one without is free | file is removed
//          behind the first bar there are two again; at the end a file that belongs to no record, which is removed
//   gone   (delete, overwrite, expiry) record is free | file is removed
//
// A node that starts with fresh memory, and is in no cluster's directory, makes records of the files that it finds.
#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "server/store/record_state.h"
#include "server/store/store.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

namespace {

constexpr uint64_t kLeastSpilledBytes = 16 << 10;  // of smaller ones a file would cost more than it gives
constexpr uint64_t kMostAhead = uint64_t{64} << 20;
constexpr uint64_t kSmallReadBytes = 1 << 20;
constexpr absl::Duration kFullFor = absl::Seconds(5);
constexpr absl::Duration kFailedFor = absl::Seconds(1);
constexpr char kReturningUrl[] = "penstock/returning";

absl::Status Returning(std::string_view name) {
  absl::Status status = absl::UnavailableError(StrCat("'", name, "': it is being read from the spill directory; try again"));
  status.SetPayload(kReturningUrl, absl::Cord());
  return status;
}

}  // namespace

bool IsReturning(const absl::Status& status) { return status.GetPayload(kReturningUrl).has_value(); }

// ---- what is where, and what was used ----

void Store::Track(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  const EvictionOrder::Item item{.ref = ref, .nbytes = record->nbytes, .name_hash = record->name_hash,
                                 .soft_pin = (record->flags & layout::kRecordSoftPin) != 0};
  if (!(record->flags & layout::kRecordKeep)) return cache_order_.Add(item);
  if (spill_ == nullptr) return;
  if (IsSpilled(record)) {
    ++spill_->count;
    spill_->bytes += record->nbytes;
  } else if (record->nbytes >= kLeastSpilledBytes && !(record->flags & layout::kRecordBound)) {
    spill_->order.Add(item);
  }
}

void Store::Untrack(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  cache_order_.Remove(ref);
  if (spill_ == nullptr) return;
  spill_->order.Remove(ref);
  if (!IsSpilled(record)) return;
  --spill_->count;
  spill_->bytes -= record->nbytes;
}

void Store::Touch(RecordRef ref) {
  cache_order_.Touch(ref);
  if (spill_ != nullptr) spill_->order.Touch(ref);
}

// At most so long ago; but a look takes one twentieth of the time at most, unless it must be now.
void Store::NoteUses(absl::Duration since) {
  const absl::Time now = MonotonicNow();
  if (since > absl::ZeroDuration() && now - uses_.at() < std::max(since, 20 * uses_.took())) return;
  uses_.Look(SessionList(), held_, [this](uint64_t pin) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const RecordRef ref = static_cast<RecordRef>(pin >> 32);
    if (slabs_->IsSlot(ref) && layout::PinWord(ref, slabs_->At(ref)->seq.load()) == pin) Touch(ref);
  });
}

bool Store::IsPinned(RecordRef ref) const {
  const uint64_t pin = layout::PinWord(ref, slabs_->At(ref)->seq.load());
  return uses_.IsPinned(pin) || held_.contains(pin);
}

bool Store::IsFreelyLive(RecordRef ref, uint64_t pin) const {
  const Record* record = slabs_->At(ref);
  if (layout::PinWord(ref, record->seq.load()) != pin || !(record->seq.load() & 1)) return false;
  return record->cluster_state == 0 || !directory_->IsAside(ref);
}

// ---- out ----

uint64_t Store::MovableBytes() const {
  return spill_ == nullptr || !HasSpillRoom(1) ? 0 : spill_->order.bytes();
}

// What comes back makes room for as much, but maybe whole extents have to be emptied for it first: a directory that is full still
// serves all that lies in it.
bool Store::HasSpillRoom(uint64_t file_bytes) const {
  if (MonotonicNow() < spill_->full_until) return false;
  const uint64_t over = spill_->returning_bytes == 0 ? 0 : limits_.memory_bytes;
  return spill_->dir->used_bytes() + spill_->leaving_bytes + file_bytes <= spill_->limit_bytes + over;
}

// Begins to write the coldest, so that `nbytes` come free, and some more. Whether any is on its way.
bool Store::SpillSome(uint64_t nbytes) {
  if (spill_ == nullptr || spill_->stopping) return false;
  if (spill_->leaving_bytes > 0) return true;
  const uint64_t wanted = std::max(nbytes, std::min(limits_.memory_bytes / 16, kMostAhead));
  for (const absl::Duration since : {absl::Milliseconds(20), absl::ZeroDuration()}) {
    NoteUses(since);
    EvictionOrder::Walk walk = spill_->order.Begin();
    uint64_t begun = 0;
    while (begun < wanted) {
      const RecordRef ref = spill_->order.Next(&walk);
      if (ref == 0) break;
      if (IsPinned(ref)) {
        spill_->order.Pass(ref);
        continue;
      }
      if (!BeginSpill(ref)) break;
      begun += slabs_->At(ref)->nbytes;
    }
    if (begun > 0) return true;
  }
  return false;
}

bool Store::BeginSpill(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  v1::TensorInfo info;
  FillInfo(ref, &info);
  const uint64_t file_bytes = SpillDir::FileBytes(info);
  if (!HasSpillRoom(file_bytes)) {
    if (MonotonicNow() >= spill_->full_until) SayFull(StrCat("--spill_limit (", FormatSize(spill_->limit_bytes), ") is reached"));
    return false;
  }
  const uint64_t pin = layout::PinWord(ref, record->seq.load());
  ++held_[pin];
  spill_->order.Evict(ref);
  spill_->leaving[ref] = file_bytes;
  spill_->leaving_bytes += file_bytes;
  const uint64_t number = spill_->next_number++;
  const char* const data = blocks_.Address(record->segment, record->offset);
  spill_->writer.Add([this, ref, pin, number, info = std::move(info), data] { Spill(ref, pin, number, info, data); });
  return true;
}

void Store::SayFull(std::string_view why) {
  if (std::exchange(spill_->said_full, true)) return;
  const std::string line = StrCat("spill directory ", spill_->dir->path(), ": ", why, "; nothing more goes there until there is room");
  LogLocked(v1::Event::WARNING, line);
  Say(line);
}

// On the writer's thread.
void Store::Spill(RecordRef ref, uint64_t pin, uint64_t number, const v1::TensorInfo& info, const char* data) {
  PENSTOCK_FAULT_POINT("node.spill.begin");
  const absl::Status written = spill_->dir->Write(number, info, data);
  std::lock_guard lock(mutex_);
  if (auto held = held_.find(pin); --held->second == 0) held_.erase(held);
  const auto leaving = spill_->leaving.find(ref);
  spill_->leaving_bytes -= leaving->second;
  spill_->leaving.erase(leaving);
  const bool still_live = IsFreelyLive(ref, pin);
  absl::Status status = written;
  if (still_live && status.ok()) {
    NoteUses(absl::ZeroDuration());
    status = IsPinned(ref) ? absl::AbortedError("it is in use") : BecomeSpilled(ref, number);
  }
  if (!status.ok() || !still_live) {
    if (written.ok()) RemoveFile(number);
    if (still_live && !absl::IsDataLoss(status)) Track(ref);
  }
  if (!written.ok() && !absl::IsDataLoss(written)) {
    spill_->full_until = MonotonicNow() + kFullFor;
    SayFull(std::string(written.message()));
  } else if (absl::IsDataLoss(written)) {
    LogLocked(v1::Event::WARNING, StrCat("not spilled: ", std::string(written.message())));
    Say(std::string(written.message()));
  }
  if (!retired_.empty()) Reclaim();
  Changed();
}

absl::Status Store::BecomeSpilled(RecordRef from, uint64_t number) {
  const absl::StatusOr<RecordRef> made = slabs_->Allocate(layout::RecordBytesOf(slabs_->At(from)));
  if (!made.ok()) return made.status();
  Record* record = slabs_->At(*made);
  CopyFields(from, *made);
  record->segment = 0;
  record->offset = number;
  spill_->files.insert(number);
  SetState(record, kSpilledState);
  PENSTOCK_FAULT_POINT("node.spill.listed");
  TakePlace(from, *made);
  PENSTOCK_FAULT_POINT("node.spill.retired");
  ++spill_->spills;
  return absl::OkStatus();
}

// ---- back ----

// What whoever wants the bytes is told. The first one begins it.
absl::Status Store::BringBack(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  const uint64_t number = record->offset;
  if (spill_ == nullptr) return absl::DataLossError(StrCat("'", NameOf(record), "': its bytes are in a spill directory, and this node has none"));
  if (const auto failed = spill_->failures.find(number); failed != spill_->failures.end()) {
    if (MonotonicNow() < failed->second.until) return failed->second.status;
    spill_->failures.erase(failed);
  }
  if (spill_->returning.insert(number).second) {
    v1::TensorInfo info;
    FillInfo(ref, &info);
    const uint64_t file_bytes = SpillDir::FileBytes(info);
    spill_->returning_bytes += file_bytes;
    spill_->readers[record->nbytes > kSmallReadBytes].Add([this, ref, number, file_bytes, info = std::move(info), name_hash = record->name_hash] {
      absl::Status status = ReadBack(ref, number, info);
      std::lock_guard lock(mutex_);
      spill_->returning.erase(number);
      spill_->returning_bytes -= file_bytes;
      if (!status.ok() && IsFileOf(ref, number)) CannotBringBack(ref, number, std::move(status));
      Changed(name_hash);  // the place of the record may be another one's by now
    });
  }
  return Returning(NameOf(record));
}

bool Store::IsFileOf(RecordRef ref, uint64_t number) const {
  return IsSpilled(slabs_->At(ref)) && slabs_->At(ref)->offset == number;
}

// On a reader's thread.
absl::Status Store::ReadBack(RecordRef ref, uint64_t number, const v1::TensorInfo& info) {
  const absl::StatusOr<Block> block = AwaitBlock(ref, number, info);
  if (!block.ok()) return block.status();
  const absl::Status read = spill_->dir->Read(number, info, block->address);
  PENSTOCK_FAULT_POINT("node.spill.read");
  std::lock_guard lock(mutex_);
  absl::StatusOr<RecordRef> made = absl::CancelledError("not wanted any more");
  if (!read.ok()) {
    made = read;
  } else if (IsFileOf(ref, number)) {
    made = slabs_->Allocate(layout::RecordBytesOf(slabs_->At(ref)));
  }
  if (!made.ok()) {
    blocks_.Free(block->segment, block->offset, info.nbytes());
    return made.status();
  }
  ReplaceBlock(ref, *made, *block);
  ++spill_->spill_ins;
  return absl::OkStatus();
}

// In an arena; waits until there is one.
absl::StatusOr<Block> Store::AwaitBlock(RecordRef ref, uint64_t number, const v1::TensorInfo& info) {
  const absl::Time end = MonotonicNow() + kSpillPatience;
  while (true) {
    uint64_t epoch = 0;
    {
      std::lock_guard lock(mutex_);
      if (spill_->stopping || !IsFileOf(ref, number)) return absl::CancelledError("not wanted any more");
      epoch = change_epoch_.load();
      absl::StatusOr<Placed> placed = FindBlock({.why = "bring back", .name = info.name(), .nbytes = info.nbytes(), .in_arena = true});
      if (!placed.ok()) return placed.status();
      if (placed->kind == Placed::Kind::kPlaced) return placed->block;
      if (MonotonicNow() >= end) return Full(StrCat("bring back '", info.name(), "'"), info.nbytes());
    }
    WaitForChange(epoch, absl::Milliseconds(100));
  }
}

bool Store::IsDamaged(RecordRef ref) const {
  if (spill_ == nullptr || !IsSpilled(slabs_->At(ref))) return false;
  const auto failed = spill_->failures.find(slabs_->At(ref)->offset);
  return failed != spill_->failures.end() && absl::IsDataLoss(failed->second.status);
}

void Store::CannotBringBack(RecordRef ref, uint64_t number, absl::Status status) {
  if (!absl::IsDataLoss(status)) {
    spill_->failures[number] = {std::move(status), MonotonicNow() + kFailedFor};
    return;
  }
  const Record* record = slabs_->At(ref);
  const std::string line = StrCat("'", NameOf(record), "': its bytes are lost: ", std::string(status.message()), "; the file is set aside");
  spill_->failures[number] = {absl::DataLossError(line), absl::InfiniteFuture()};
  spill_->writer.Add([this, number] { spill_->dir->SetAside(number); });
  LogLocked(v1::Event::WARNING, line);
  Say(line);
  if (record->cluster_state != 0) StepAsideDamaged(ref);
}

}  // namespace penstock::server
