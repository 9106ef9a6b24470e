#include "server/store/event_log.h"

#include <utility>

namespace penstock::server {

void EventLog::Append(LoggedEvent event) {
  event.sequence = next_++;
  events_.push_back(std::move(event));
  if (events_.size() > kCapacity) events_.pop_front();
}

std::vector<const LoggedEvent*> EventLog::After(uint64_t sequence, std::string_view prefix, bool tensors_only, size_t limit,
                                                uint64_t* scanned_to, bool* lost) const {
  std::vector<const LoggedEvent*> found;
  *lost = sequence + 1 < first_sequence();
  const uint64_t first = *lost ? first_sequence() : sequence + 1;
  *scanned_to = first - 1;
  for (uint64_t at = first; at < next_ && found.size() < limit; ++at) {
    *scanned_to = at;
    const LoggedEvent& event = events_[at - first_sequence()];
    const bool tensor = event.kind <= v1::Event::EVICT;
    if (tensors_only && !tensor) continue;
    if (tensor ? !event.name.starts_with(prefix) : !prefix.empty()) continue;
    found.push_back(&event);
  }
  return found;
}

}  // namespace penstock::server
