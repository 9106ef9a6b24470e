// The files of the spill directory: those that an earlier process left become records again, those of records that are gone are removed.
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "proto/layout/metadata_codec.h"
#include "proto/names.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "server/store/record_info.h"
#include "server/store/record_state.h"
#include "server/store/store.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

namespace {

// --spill_limit, of the file system there.
absl::StatusOr<uint64_t> LimitOf(const std::string& text, const SpillDir& dir) {
  struct statvfs about {};
  if (statvfs(dir.path().c_str(), &about) != 0) return absl::UnavailableError(StrCat("flag --spill_dir: statvfs ", dir.path(), ": ", strerror(errno)));
  if (text.empty()) return (uint64_t{about.f_bavail} * about.f_frsize + dir.used_bytes()) / 5 * 4;
  return ParseSize(text, uint64_t{about.f_blocks} * about.f_frsize);
}

}  // namespace

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
