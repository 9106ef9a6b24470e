#include "server/store/table_log.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace penstock::server {

using directory::Entry;
using directory::Partition;
using directory::TableHeader;
using directory::Term;

namespace {

constexpr uint64_t kMagic = 0x31474f4c4b545350;  // "PSTKLOG1": of this form of the records
constexpr uint64_t kSegmentBytes = uint64_t{4} << 20;
constexpr uint64_t kLeastGarbage = uint64_t{16} << 20;
constexpr uint64_t kRenewBytes = uint64_t{512} << 10;  // at once
constexpr size_t kDropsAtOnce = 2;
constexpr Partition kMostPartitions = 1 << 16;

enum Kind : uint16_t { kComplete = 1, kEntry = 2, kErase = 3, kClear = 4, kPromise = 5 };

struct CompletePart {
  uint64_t stamp_term, stamp_change, number, lost_before, loss_is_recent, term, base;
};

struct EntryPart {  // then the holders, then the text
  uint64_t version_term, version_number, stamp_term, stamp_change, op_session, op_count, nbytes;
  uint32_t text_bytes;
  uint16_t name_bytes;
  uint16_t holders;
  uint8_t replicas;
  uint8_t deleted;
  uint8_t cache;
  uint8_t reasons;
  uint8_t unused[4];
};
static_assert(sizeof(EntryPart) == 72);

template <typename T>
std::string_view BytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

template <typename T>
T ValueOf(std::string_view bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof(value), bytes.size()));
  return value;
}

std::string_view NameIn(std::string_view entry) {
  const auto part = ValueOf<EntryPart>(entry);
  return entry.substr(sizeof(EntryPart) + 8 * size_t{part.holders}, part.name_bytes);
}

Entry EntryOf(std::string_view bytes) {
  const auto part = ValueOf<EntryPart>(bytes);
  Entry entry;
  entry.version = {part.version_term, part.version_number};
  entry.stamp = {part.stamp_term, part.stamp_change};
  entry.op = {part.op_session, part.op_count};
  entry.nbytes = part.nbytes;
  entry.replicas = part.replicas;
  entry.deleted = part.deleted != 0;
  entry.cache = part.cache != 0;
  for (size_t i = 0; i < part.holders; ++i) entry.holders.push_back(ValueOf<directory::NodeId>(bytes.substr(sizeof(EntryPart) + 8 * i)));
  entry.text = bytes.substr(sizeof(EntryPart) + 8 * size_t{part.holders}, part.text_bytes);
  entry.name_bytes = part.name_bytes;
  entry.reasons = part.reasons;
  return entry;
}

}  // namespace

struct TableLog::Head {
  uint64_t magic;
  uint64_t epoch;
  uint32_t number;               // of the segment in its epoch
  std::atomic<uint32_t> whole;   // of the first one: all that the epoch begins with is there
  std::atomic<uint64_t> used;    // bytes behind the head
  uint64_t unused[4];
};

struct TableLog::RecordHead {
  uint32_t bytes;  // with this, a multiple of 8
  uint16_t kind;
  uint16_t partition;
  uint64_t payload_bytes;
};

struct TableLog::Contents {
  struct Table {
    Term promised = 0;
    bool complete = false;
    TableHeader header;
    absl::flat_hash_map<std::string_view, std::string_view> entries;  // name -> the whole entry; views of the log
  };
  std::map<Partition, Table> tables;
};

TableLog::TableLog(SharedSegments* segments, std::vector<SharedSegment> inherited) : segments_(segments) {
  static_assert(sizeof(Head) == 64 && sizeof(RecordHead) == 16);
  Adopt(std::move(inherited));
  if (!log_.segments.empty()) return;
  ++log_.epoch;
  if (AddSegment(&log_, kSegmentBytes)) {
    HeadOf(log_.segments[0])->whole.store(1);
  } else {
    GiveUp();
  }
}

// The largest epoch that is whole; all others were about to be written, or to be dropped.
void TableLog::Adopt(std::vector<SharedSegment> inherited) {
  std::map<uint64_t, std::map<uint32_t, SharedSegment>> epochs;
  for (const SharedSegment& segment : inherited) {
    const Head* head = HeadOf(segment);
    if (head->magic == kMagic) {
      epochs[head->epoch][head->number] = segment;
    } else {
      segments_->Drop(segment.id);
    }
  }
  for (auto it = epochs.rbegin(); it != epochs.rend(); ++it) {
    log_.epoch = std::max(log_.epoch, it->first);
    const auto first = it->second.find(0);
    const bool whole = first != it->second.end() && HeadOf(first->second)->whole.load() != 0;
    for (const auto& [number, segment] : it->second) {
      if (whole && log_.segments.size() == number && (number == 0 || !log_.segments.empty())) {
        log_.segments.push_back(segment);
        log_.bytes += HeadOf(segment)->used.load();
      } else {
        segments_->Drop(segment.id);
      }
    }
    if (whole) log_.epoch = it->first;
    if (whole) {
      for (auto older = std::next(it); older != epochs.rend(); ++older) {
        for (const auto& [number, segment] : older->second) segments_->Drop(segment.id);
      }
      break;
    }
  }
  write_anew_at_ = kLeastGarbage;  // how much of it is no longer so, nobody knows: a larger one is written anew at once
}

bool TableLog::AddSegment(Log* log, uint64_t bytes) {
  absl::StatusOr<SharedSegment> made = segments_->CreateSealed(
      {.kind = layout::SegmentKind::kTableLog, .bytes = std::max(bytes, kSegmentBytes), .huge_pages = false, .populate = false});
  if (!made.ok()) return false;
  Head* head = HeadOf(*made);
  head->epoch = log->epoch;
  head->number = static_cast<uint32_t>(log->segments.size());
  head->used.store(0);
  head->whole.store(0);
  head->magic = kMagic;
  log->segments.push_back(*made);
  return true;
}

bool TableLog::MakeRoom(Log* log, uint64_t bytes) {
  const SharedSegment& last = log->segments.back();
  return sizeof(Head) + HeadOf(last)->used.load(std::memory_order_relaxed) + bytes <= last.bytes || AddSegment(log, sizeof(Head) + bytes);
}

void TableLog::Append(uint16_t kind, Partition partition, absl::Span<const std::string_view> parts) {
  if (!only_next_) AppendTo(&log_, kind, partition, parts);
  if (only_next_ || (!next_.segments.empty() && partition < renewed_)) AppendTo(&next_, kind, partition, parts);
}

void TableLog::AppendTo(Log* log, uint16_t kind, Partition partition, absl::Span<const std::string_view> parts) {
  if (lost_ || log->segments.empty()) return;
  uint64_t payload = 0;
  for (const std::string_view part : parts) payload += part.size();
  const uint64_t bytes = (sizeof(RecordHead) + payload + 7) / 8 * 8;
  if (!MakeRoom(log, bytes)) return log == &next_ ? Drop(log) : GiveUp();
  Head* head = HeadOf(log->segments.back());
  char* at = static_cast<char*>(log->segments.back().address) + sizeof(Head) + head->used.load(std::memory_order_relaxed);
  const RecordHead record{.bytes = static_cast<uint32_t>(bytes), .kind = kind, .partition = static_cast<uint16_t>(partition), .payload_bytes = payload};
  std::memcpy(at, &record, sizeof(record));
  at += sizeof(record);
  for (const std::string_view part : parts) {
    std::memcpy(at, part.data(), part.size());
    at += part.size();
  }
  head->used.fetch_add(bytes, std::memory_order_release);  // from here on it counts
  log->bytes += bytes;
}

void TableLog::SetComplete(Partition partition, const TableHeader& header) {
  const CompletePart part{.stamp_term = header.floor.stamp.term, .stamp_change = header.floor.stamp.change, .number = header.floor.number,
                          .lost_before = header.floor.lost_before, .loss_is_recent = header.floor.loss_is_recent, .term = header.term, .base = header.base};
  Append(kComplete, partition, {BytesOf(part)});
}

void TableLog::Put(Partition partition, const Entry& entry) {
  const EntryPart part{.version_term = entry.version.term, .version_number = entry.version.number, .stamp_term = entry.stamp.term,
                       .stamp_change = entry.stamp.change, .op_session = entry.op.session, .op_count = entry.op.count, .nbytes = entry.nbytes,
                       .text_bytes = static_cast<uint32_t>(entry.text.size()), .name_bytes = entry.name_bytes, .holders = static_cast<uint16_t>(entry.holders.size()),
                       .replicas = entry.replicas, .deleted = entry.deleted, .cache = entry.cache, .reasons = entry.reasons, .unused = {}};
  Append(kEntry, partition,
         {BytesOf(part), {reinterpret_cast<const char*>(entry.holders.data()), 8 * entry.holders.size()}, std::string_view(entry.text)});
}

void TableLog::Erase(Partition partition, std::string_view name) { Append(kErase, partition, {name}); }
void TableLog::Clear(Partition partition) { Append(kClear, partition, {}); }
void TableLog::SetPromise(Partition partition, Term promised) { Append(kPromise, partition, {BytesOf(promised)}); }

TableLog::Contents TableLog::Read() const {
  Contents contents;
  for (const SharedSegment& segment : log_.segments) {
    const char* at = static_cast<const char*>(segment.address) + sizeof(Head);
    const char* const end = at + HeadOf(segment)->used.load(std::memory_order_acquire);
    while (at < end) {
      const auto record = ValueOf<RecordHead>({at, sizeof(RecordHead)});
      const std::string_view payload(at + sizeof(RecordHead), record.payload_bytes);
      at += record.bytes;
      Contents::Table& table = contents.tables[record.partition];
      switch (record.kind) {
        case kComplete: {
          const auto part = ValueOf<CompletePart>(payload);
          table.complete = true;
          table.header = {.floor = {.stamp = {part.stamp_term, part.stamp_change}, .number = part.number, .lost_before = part.lost_before,
                                    .loss_is_recent = part.loss_is_recent != 0},
                          .term = part.term, .base = part.base};
          break;
        }
        case kEntry: {
          const std::string_view name = NameIn(payload);
          table.entries.erase(name);  // the key, too, is a view of the newest
          table.entries.emplace(name, payload);
          break;
        }
        case kErase: table.entries.erase(payload); break;
        case kClear:
          table.entries.clear();
          table.complete = false;
          break;
        case kPromise: table.promised = ValueOf<Term>(payload); break;
        default: break;
      }
    }
  }
  return contents;
}

void TableLog::Load(const Loaded& loaded) const {
  const Contents contents = Read();
  for (const auto& [partition, table] : contents.tables) {
    if (table.promised != 0) loaded.promise(partition, table.promised);
    if (!table.complete) continue;
    loaded.complete(partition, table.header);
    for (const auto& [name, entry] : table.entries) loaded.entry(partition, EntryOf(entry));
  }
}

// ---- written anew ----

void TableLog::Renew(const Tell& tell) {
  for (size_t i = 0; i < kDropsAtOnce && !dropping_.empty(); ++i) {
    segments_->Drop(dropping_.back());
    dropping_.pop_back();
  }
  if (lost_ || !dropping_.empty()) return;
  if (next_.segments.empty()) {
    if (log_.bytes < write_anew_at_) return;
    BeginAnew();
  }
  const uint64_t end = next_.bytes + kRenewBytes;
  only_next_ = true;
  for (; renewed_ < kMostPartitions && next_.bytes < end && !next_.segments.empty(); ++renewed_) tell(renewed_, this);
  only_next_ = false;
  if (renewed_ == kMostPartitions && !next_.segments.empty()) FinishAnew();
}

void TableLog::BeginAnew() {
  renewed_ = 0;
  next_.epoch = log_.epoch + 1;
  next_.bytes = 0;
  if (!AddSegment(&next_, kSegmentBytes)) write_anew_at_ += kLeastGarbage;  // later
}

void TableLog::FinishAnew() {
  HeadOf(next_.segments[0])->whole.store(1);
  for (const SharedSegment& segment : log_.segments) dropping_.push_back(segment.id);
  log_ = std::move(next_);
  next_ = {};
  write_anew_at_ = log_.bytes + std::max(kLeastGarbage, log_.bytes);
}

void TableLog::Drop(Log* log) {
  for (const SharedSegment& segment : log->segments) segments_->Drop(segment.id);
  *log = {.segments = {}, .epoch = log->epoch, .bytes = 0};
}

void TableLog::Forget() {
  Drop(&next_);
  Drop(&log_);
  ++log_.epoch;
  if (!AddSegment(&log_, kSegmentBytes)) return GiveUp();
  HeadOf(log_.segments[0])->whole.store(1);
}

// What is there is not all any more, so it must not be taken for that.
void TableLog::GiveUp() {
  lost_ = true;
  Drop(&next_);
  Drop(&log_);
}

}  // namespace penstock::server
