#include "server/store/event_log.h"

#include <cstring>

#include "proto/names.h"

namespace penstock::server {

Shape LoggedEvent::shape() const {
  int64_t dims[kMaxRank];
  std::memcpy(dims, bytes.data(), 8 * size_t{rank});
  return Shape(absl::MakeConstSpan(dims, rank));
}

LoggedEvent& EventLog::Next(v1::Event::Kind kind, uint64_t time_ns) {
  const uint64_t sequence = next_++;
  if (events_.size() < kCapacity) events_.emplace_back();  // at (sequence - 1): sequences begin with 1
  LoggedEvent& event = events_[(sequence - 1) % kCapacity];
  event.kind = kind;
  event.sequence = sequence;
  event.time_ns = time_ns;
  event.elsewhere = false;
  return event;
}

void EventLog::Append(v1::Event::Kind kind, uint64_t time_ns, std::string_view text) {
  LoggedEvent& event = Next(kind, time_ns);
  event.record = 0;
  event.record_seq = event.version = event.nbytes = 0;
  event.dtype = event.rank = 0;
  event.bytes.assign(text);
}

void EventLog::Append(v1::Event::Kind kind, uint64_t time_ns, layout::RecordRef ref, const layout::Record& record) {
  LoggedEvent& event = Next(kind, time_ns);
  event.record = ref;
  event.record_seq = record.seq.load(std::memory_order_relaxed);
  event.version = record.version_number;
  event.nbytes = record.nbytes;
  event.dtype = record.dtype;
  event.rank = record.rank;
  // The dimensions and the name lie behind each other in a record, too.
  event.bytes.assign(reinterpret_cast<const char*>(layout::RecordShape(&record)), 8 * size_t{record.rank} + record.name_bytes);
}

void EventLog::Append(v1::Event::Kind kind, uint64_t time_ns, const v1::TensorInfo& info, bool elsewhere) {
  LoggedEvent& event = Next(kind, time_ns);
  event.record = 0;
  event.record_seq = 0;
  event.version = info.version().number();
  event.nbytes = info.nbytes();
  event.dtype = static_cast<uint8_t>(info.dtype());
  event.rank = static_cast<uint8_t>(info.shape_size());
  event.elsewhere = elsewhere;
  event.bytes.assign(reinterpret_cast<const char*>(info.shape().data()), 8 * size_t{event.rank});
  event.bytes += info.name();
}

std::vector<const LoggedEvent*> EventLog::After(uint64_t sequence, std::string_view prefix, bool tensors_only, bool of_homes, size_t limit,
                                                uint64_t* scanned_to, bool* lost) const {
  std::vector<const LoggedEvent*> found;
  const bool with_reserved = prefix.starts_with(kReservedPrefix);
  *lost = sequence + 1 < first_sequence();
  const uint64_t first = *lost ? first_sequence() : sequence + 1;
  *scanned_to = first - 1;
  for (uint64_t at = first; at < next_ && found.size() < limit; ++at) {
    *scanned_to = at;
    const LoggedEvent& event = events_[(at - 1) % kCapacity];
    const bool resync = event.kind == v1::Event::RESYNC;  // for everybody who watches here
    if (of_homes && (event.elsewhere || resync)) continue;
    if (resync) {
      found.push_back(&event);
      continue;
    }
    if (event.of_tensor() ? !event.name().starts_with(prefix) : (tensors_only || !prefix.empty())) continue;
    if (!with_reserved && event.of_tensor() && event.name().starts_with(kReservedPrefix)) continue;
    found.push_back(&event);
  }
  return found;
}

}  // namespace penstock::server
