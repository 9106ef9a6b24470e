// What channels and regions take of the store's memory (server/mutable/ has the rest of them).
#include <utility>

#include "proto/strcat.h"
#include "server/store/store.h"

namespace penstock::server {

absl::Status Store::ReserveMutable(uint64_t session, layout::SegmentKind kind, uint64_t bytes, uint64_t count) {
  std::lock_guard lock(mutex_);
  const auto it = sessions_.find(session);
  if (it == sessions_.end()) return absl::UnavailableError("the session has ended");
  bool leased = false;
  while (!blocks_.ReserveBudget(bytes)) {  // first what is empty, then what may be evicted
    if (GiveBackEmptySegments(/*keep_arena_bytes=*/0, /*of_live_sessions=*/true)) continue;
    if (bytes > limits_.memory_bytes || Evict(bytes, &leased) == 0) {
      return Full(kind == layout::SegmentKind::kChannel ? "open channel" : "open region", bytes);
    }
  }
  MutableCountOf(kind).count += count;
  MutableCountOf(kind).bytes += bytes;
  return absl::OkStatus();
}

void Store::ReleaseMutable(layout::SegmentKind kind, uint64_t bytes, uint64_t count) {
  std::lock_guard lock(mutex_);
  blocks_.CancelReservation(bytes);
  MutableCountOf(kind).count -= count;
  MutableCountOf(kind).bytes -= bytes;
  Changed();
}

}  // namespace penstock::server
