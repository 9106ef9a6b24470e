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
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/time/clock.h"
#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "server/store/record_info.h"
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

// --spill_limit, of the file system there.
absl::StatusOr<uint64_t> LimitOf(const std::string& text, const SpillDir& dir) {
  struct statvfs about {};
  if (statvfs(dir.path().c_str(), &about) != 0) return absl::UnavailableError(StrCat("flag --spill_dir: statvfs ", dir.path(), ": ", strerror(errno)));
  if (text.empty()) return (uint64_t{about.f_bavail} * about.f_frsize + dir.used_bytes()) / 5 * 4;
  return ParseSize(text, uint64_t{about.f_blocks} * about.f_frsize);
}

}  // namespace

bool IsReturning(const absl::Status& status) { return status.GetPayload(kReturningUrl).has_value(); }

// ---- opening ----

absl::Status Store::OpenSpill() {
  if (limits_.spill_dir.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<SpillDir>> dir = SpillDir::Open(limits_.spill_dir);
  if (!dir.ok()) return dir.status();
  spill_ = std::make_unique<SpillBooks>(*std::move(dir));
  return absl::OkStatus();
}

absl::Status Store::TakeSpillFiles(bool inherited) {
  if (spill_ == nullptr) return absl::OkStatus();
  std::lock_guard lock(mutex_);
  std::vector<SpillDir::File> files = spill_->dir->Scan();
  for (const SpillDir::File& file : files) spill_->next_number = std::max(spill_->next_number, file.number + 1);
  if (inherited || limits_.directory) {
    size_t removed = 0;
    for (const SpillDir::File& file : files) {
      if (spill_->files.contains(file.number)) continue;
      spill_->dir->Remove(file.number);
      ++removed;
    }
    if (removed > 0 && !inherited) {
      Say(StrCat("--spill_dir: ", removed, " files of an earlier life of this node are removed; the cluster's other nodes have what it held"));
    }
  } else {
    AdoptFiles(files);
  }
  if (spill_->dir->set_aside() > 0) Say(StrCat("--spill_dir: ", spill_->dir->set_aside(), " files in ", spill_->dir->path(), " do not check out and are set aside (.bad)"));
  const absl::StatusOr<uint64_t> limit = LimitOf(limits_.spill_limit, *spill_->dir);
  if (!limit.ok()) return limit.status();
  spill_->limit_bytes = *limit;
  return absl::OkStatus();
}

// Of several versions the newest: the node's process died between an overwrite and the removal of the older file.
void Store::AdoptFiles(const std::vector<SpillDir::File>& files) {
  std::map<std::string_view, const SpillDir::File*> newest;
  for (const SpillDir::File& file : files) {
    const SpillDir::File*& slot = newest[file.info.name()];
    if (slot == nullptr || file.info.version().number() > slot->info.version().number()) slot = &file;
  }
  const uint64_t now = absl::GetCurrentTimeNanos();
  uint64_t bytes = 0;
  for (const SpillDir::File& file : files) {
    const bool over = file.info.expires_ns() != 0 && file.info.expires_ns() <= now;
    const absl::Status adopted = newest[file.info.name()] != &file || over ? absl::CancelledError("") : AdoptFile(file);
    if (adopted.ok()) {
      bytes += file.info.nbytes();
    } else if (absl::IsInvalidArgument(adopted)) {
      spill_->dir->SetAside(file.number);
    } else {
      spill_->dir->Remove(file.number);
    }
  }
  if (spill_->count > 0) Say(StrCat("--spill_dir: ", spill_->count, " tensors (", FormatSize(bytes), ") of an earlier life of this node are served again"));
}

absl::Status Store::AdoptFile(const SpillDir::File& file) {
  const v1::TensorInfo& info = file.info;
  if (absl::Status s = ValidateName(info.name()); !s.ok()) return s;
  v1::RecordInfo fields;
  fields.set_dtype(info.dtype());
  *fields.mutable_shape() = info.shape();
  fields.set_replicas(1);
  *fields.mutable_metadata() = info.metadata();
  std::string metadata;
  const absl::StatusOr<CreateSpec> spec = SpecOfRecord(info.name(), fields, &metadata);
  if (!spec.ok()) return absl::InvalidArgumentError(spec.status().message());
  if (spec->nbytes != info.nbytes() || info.nbytes() == 0 || info.version().number() == 0) return absl::InvalidArgumentError("nbytes, or version");
  const auto flags = static_cast<uint8_t>(layout::kRecordKeep | layout::kRecordKernelImmutable | (info.has_crc32c() ? layout::kRecordChecksum : 0));
  const uint64_t record_bytes = layout::RecordBytes(spec->shape.rank(), spec->name.size(), metadata.size());
  const absl::StatusOr<RecordRef> ref = slabs_->Allocate(layout::PartsOffset(record_bytes) + layout::PartsBytes(flags));
  if (!ref.ok()) return ref.status();
  Record* record = slabs_->At(*ref);
  FillRecord(record, *spec);
  record->flags = flags;
  if (layout::ChecksumPart* part = layout::ChecksumPartOf(record)) *part = {info.crc32c(), layout::ChecksumState::kKnown};
  record->version_number = info.version().number();
  record->version_term = info.version().term();
  record->created_ns = info.created_ns();
  record->expires_ns.store(info.expires_ns());
  record->owner_session = 0;
  record->segment = 0;
  record->offset = file.number;
  SetState(record, kSpilledState);
  spill_->files.insert(file.number);
  if (absl::Status s = index_->Insert(record->name_hash, *ref); !s.ok()) return s;
  names_->Insert(*ref);
  CountLive(*ref);
  return absl::OkStatus();
}

// Recovery: a record without a block, when all with one are known.
void Store::SettleSpilled(RecordRef ref) {
  const Record* record = slabs_->At(ref);
  const RecordRef other = index_->Find(NameOf(record), record->name_hash);
  if (other != 0 && std::pair(slabs_->At(other)->version_term, slabs_->At(other)->version_number) >= std::pair(record->version_term, record->version_number)) {
    return FreeRecord(ref);
  }
  if (other != 0) {
    index_->Replace(record->name_hash, other, ref);
    names_->Replace(other, ref);
    Retire(other);
  } else {
    if (!index_->Insert(record->name_hash, ref).ok()) return;  // no room: its file stays, and is found by the next process
    names_->Insert(ref);
  }
  CountLive(ref);
}

void Store::NoteFile(const Record* record) {
  if (spill_ == nullptr) return;
  spill_->next_number = std::max(spill_->next_number, record->offset + 1);
  if (IsSpilled(record)) spill_->files.insert(record->offset);
}

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

// ---- gone ----

void Store::RemoveFile(uint64_t number) {
  if (spill_ == nullptr) return;
  spill_->files.erase(number);
  spill_->failures.erase(number);
  spill_->removals.push_back(number);
  if (spill_->removals.size() > 1) return;  // the writer is told already
  spill_->writer.Add([this] { RemoveFiles(); });
}

void Store::RemoveFiles() {
  std::vector<uint64_t> removals;
  {
    std::lock_guard lock(mutex_);
    removals.swap(spill_->removals);
  }
  for (const uint64_t number : removals) spill_->dir->Remove(number);
  if (removals.empty()) return;
  std::lock_guard lock(mutex_);
  spill_->full_until = absl::InfinitePast();
  if (spill_->dir->used_bytes() < spill_->limit_bytes / 10 * 9) spill_->said_full = false;
  Changed();
}

void Store::StopWork() {
  work_.Stop();
  if (spill_ == nullptr) return;
  {
    std::lock_guard lock(mutex_);
    if (std::exchange(spill_->stopping, true)) return;
    Changed();
  }
  spill_->writer.Stop();
  for (WorkQueue& reader : spill_->readers) reader.Stop();
  RemoveFiles();  // else the next life of this node would serve what was deleted
}

void Store::Say(const std::string& line) const {
  if (limits_.say) limits_.say(line);
}

}  // namespace penstock::server
