// What an earlier node process left and what does not check out: put aside and said, never served and never used again.
//
// A record is judged by itself (record_check.h) and by its block: one that lies where another's does may show that one's bytes, so
// both are put aside. A slab or a chunk whose header is broken is put aside as a whole. Views that are open on any of these go on: of
// them it is not known for certain where their bytes lie, so while there are any, no free space of that time is used again.
#include <algorithm>
#include <map>
#include <utility>

#include "proto/strcat.h"
#include "server/store/record_check.h"
#include "server/store/store.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

namespace {

constexpr size_t kMostTold = 20;  // the rest is counted

std::pair<uint32_t, uint64_t> PlaceOf(const Record& record) { return {record.segment, record.offset}; }

}  // namespace

// A table of chunks that is wrong is made anew from what the chunks say of themselves.
absl::Status Store::CheckHeader(const std::vector<SharedSegment>& chunks) {
  if (header_->magic != layout::kCatalogMagic || header_->layout_version != layout::kLayoutVersion || header_->header_bytes != sizeof(layout::CatalogHeader) ||
      header_bytes_ < sizeof(layout::CatalogHeader)) {
    return absl::DataLossError(StrCat("catalog header: magic ", header_->magic, ", layout version ", header_->layout_version, ", ", header_->header_bytes, " bytes; must be ",
                                      layout::kCatalogMagic, ", ", layout::kLayoutVersion, ", ", sizeof(layout::CatalogHeader)));
  }
  const uint32_t count = header_->chunk_count.load();
  const auto chunk_of = [&](uint32_t number) {  // by its own word
    return std::find_if(chunks.begin(), chunks.end(), [&](const SharedSegment& s) { return RecordSlabs::IsChunk(s, number); });
  };
  bool named = count <= chunks.size(), whole = named;
  for (uint32_t number = 0; named && number < count; ++number) {
    const uint32_t id = header_->chunk_segment[number].load();
    const auto chunk = std::find_if(chunks.begin(), chunks.end(), [id](const SharedSegment& s) { return s.id == id; });
    named = chunk != chunks.end();
    whole = whole && named && RecordSlabs::IsChunk(*chunk, number);
  }
  if (whole) return absl::OkStatus();
  for (uint32_t number = 0; number < chunks.size(); ++number) {
    if (chunk_of(number) != chunks.end()) continue;
    if (named) return absl::OkStatus();  // AdoptChunk says which is broken
    return absl::DataLossError(StrCat("catalog header: ", count, " chunks, of which some are not here, and none of the ", chunks.size(), " says that it is number ", number));
  }
  for (uint32_t number = 0; number < chunks.size(); ++number) header_->chunk_segment[number].store(chunk_of(number)->id);
  header_->chunk_count.store(static_cast<uint32_t>(chunks.size()));
  NoteDamage(StrCat("catalog header: its table of ", count, " chunks was wrong; made anew from the ", chunks.size(), " chunks themselves"));
  return absl::OkStatus();
}

std::vector<RecordRef> Store::AdoptCatalog(const std::vector<SharedSegment>& chunks) {
  std::vector<RecordRef> refs;
  for (uint32_t number = 0; number < header_->chunk_count.load(); ++number) {
    const uint32_t id = header_->chunk_segment[number].load();
    const SharedSegment& chunk = *std::find_if(chunks.begin(), chunks.end(), [&](const SharedSegment& s) { return s.id == id; });
    for (std::string& wrong : slabs_->AdoptChunk(chunk, [&](RecordRef ref) { refs.push_back(ref); })) {
      NoteDamage(std::move(wrong));
      ++damaged_;
      blocks_.FreezeAll();  // where the bytes of those records lie, nobody knows
    }
  }
  return refs;
}

// What stays in `refs` has its block, and nobody else has it.
void Store::RemoveDamaged(std::vector<RecordRef>* refs) {
  std::vector<RecordRef> earlier, sound, clashing;
  std::vector<Damage> damaged;
  for (const RecordRef ref : *refs) {
    const Record* record = slabs_->At(ref);
    if (record->state.load() == kDamagedState) {
      earlier.push_back(ref);
      continue;
    }
    absl::Status status = CheckRecord(*record, {.hash_key = header_->hash_key, .slot_bytes = slabs_->SlotBytes(ref), .directory = limits_.directory,
                                               .may_have_file = !limits_.spill_dir.empty()});
    if (status.ok()) status = TakeBlock(record);
    if (status.ok()) {
      sound.push_back(ref);
    } else if (absl::IsAlreadyExists(status)) {
      clashing.push_back(ref);
    } else {
      damaged.push_back({ref, std::string(status.message())});
    }
  }
  if (!clashing.empty()) Disentangle(clashing, &sound, &damaged);
  *refs = std::move(sound);
  for (const Damage& one : damaged) SetAsideDamaged(one.ref, one.what);
  for (const RecordRef ref : earlier) SetAsideDamaged(ref, {});
  if (!earlier.empty()) NoteDamage(StrCat(earlier.size(), " records are aside that an earlier process has found damaged"));
}

// Blocks cannot all be where their records say. One that stands against several is the wrong one; of two that stand against each
// other, either may be.
void Store::Disentangle(const std::vector<RecordRef>& clashing, std::vector<RecordRef>* sound, std::vector<Damage>* damaged) {
  std::vector<RecordRef> all = *sound;
  for (const RecordRef ref : *sound) blocks_.Free(slabs_->At(ref)->segment, slabs_->At(ref)->offset, slabs_->At(ref)->nbytes);
  all.insert(all.end(), clashing.begin(), clashing.end());
  std::sort(all.begin(), all.end(), [this](RecordRef a, RecordRef b) { return PlaceOf(*slabs_->At(a)) < PlaceOf(*slabs_->At(b)); });
  std::vector<uint32_t> rivals(all.size());
  const std::vector<std::pair<size_t, size_t>> pairs = Overlaps(all);
  for (const auto& [a, b] : pairs) ++rivals[a], ++rivals[b];
  std::vector<const char*> wrong(all.size());
  for (size_t i = 0; i < all.size(); ++i) wrong[i] = rivals[i] > 1 ? "its block overlaps several others" : nullptr;
  for (const auto& [a, b] : pairs) {
    if (rivals[a] == 1 && rivals[b] == 1) wrong[a] = wrong[b] = "its block overlaps another one, and either may be wrong";
  }
  for (const size_t i : OddOnes(all)) wrong[i] = "its block is of another size than the others around it";
  sound->clear();
  for (size_t i = 0; i < all.size(); ++i) {
    std::string what = wrong[i] == nullptr ? std::string(TakeBlock(slabs_->At(all[i])).message()) : wrong[i];
    if (what.empty()) {
      sound->push_back(all[i]);
    } else {
      damaged->push_back({all[i], std::move(what)});
    }
  }
}

// Of records in the order of their places.
std::vector<std::pair<size_t, size_t>> Store::Overlaps(const std::vector<RecordRef>& records) const {
  std::vector<std::pair<size_t, size_t>> pairs;
  for (size_t a = 0; a < records.size(); ++a) {
    const Record& one = *slabs_->At(records[a]);
    const uint64_t end = one.offset + BlockAllocator::BlockSize(one.nbytes);
    for (size_t b = a + 1; one.segment != 0 && b < records.size(); ++b) {
      const Record& other = *slabs_->At(records[b]);
      if (other.segment != one.segment || other.offset >= end) break;
      pairs.emplace_back(a, b);
    }
  }
  return pairs;
}

// Small blocks lie in slabs, each of blocks of one size: those that differ from most in theirs.
std::vector<size_t> Store::OddOnes(const std::vector<RecordRef>& records) const {
  std::map<std::pair<uint32_t, uint64_t>, std::map<uint64_t, std::vector<size_t>>> slabs;
  for (size_t i = 0; i < records.size(); ++i) {
    const Record& record = *slabs_->At(records[i]);
    if (record.segment == 0 || record.nbytes > kMaxSmallBytes) continue;
    slabs[{record.segment, record.offset / kSlabBytes}][BlockAllocator::BlockSize(record.nbytes)].push_back(i);
  }
  std::vector<size_t> odd;
  for (const auto& [slab, sizes] : slabs) {
    size_t most = 0;
    for (const auto& [size, members] : sizes) most = std::max(most, members.size());
    const bool tie = std::count_if(sizes.begin(), sizes.end(), [most](const auto& one) { return one.second.size() == most; }) > 1;
    for (const auto& [size, members] : sizes) {
      if (members.size() < most || tie) odd.insert(odd.end(), members.begin(), members.end());
    }
  }
  return odd;
}

// `what`: empty if it was told before. Its block is kept for what the record says of it, if nobody else's is there.
void Store::SetAsideDamaged(RecordRef ref, std::string_view what) {
  Record* record = slabs_->At(ref);
  if (!what.empty()) {
    const bool named = layout::RecordBytes(record->rank, record->name_bytes, 0) <= slabs_->SlotBytes(ref);
    NoteDamage(StrCat("record ", ref, " of state ", int{record->state.load()}, named ? StrCat(" ('", NameOf(record), "')") : "", " is put aside: ", what));
  }
  ++damaged_;
  const DataSegment* data = record->segment == 0 ? nullptr : blocks_.Find(record->segment);
  if (data != nullptr && blocks_.Reserve(record->segment, record->offset, record->nbytes).ok()) damaged_bytes_ += record->nbytes;
  if (IsPinnedByAny(ref)) blocks_.FreezeAll();
  if (record->seq.load() & 1) record->seq.fetch_add(1);  // nobody can pin it any more
  record->state.store(kDamagedState);
}

bool Store::IsPinnedByAny(RecordRef ref) const {
  for (const auto& [id, session] : sessions_) {
    for (const PinChunk& chunk : session->pins()) {
      for (uint32_t i = 0; i < layout::kPinsPerChunk; ++i) {
        if (chunk.words()[i].load() >> 32 == ref) return true;
      }
    }
  }
  return false;
}

void Store::NoteDamage(std::string what) { damage_.push_back(std::move(what)); }

void Store::TellDamage() {
  for (size_t i = 0; i < std::min(damage_.size(), kMostTold); ++i) LogLocked(v1::Event::WARNING, damage_[i]);
  if (damage_.size() > kMostTold) LogLocked(v1::Event::WARNING, StrCat(damage_.size(), " things were damaged in all; the first ", kMostTold, " are told"));
}

}  // namespace penstock::server
