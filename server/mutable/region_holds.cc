#include "server/mutable/region_holds.h"

#include "transport/futex.h"

namespace penstock::server {

void ClearHolds(layout::RegionHeader* region, const std::function<bool(uint64_t session)>& is_gone) {
  bool cleared = false;
  for (uint32_t i = 0; i < layout::kHoldSlots; ++i) {
    layout::HoldSlot& slot = region->slots[i];
    const uint64_t session = slot.session.load();
    if (session == 0 || !is_gone(session)) continue;
    const uint64_t word = slot.word.load();
    if (region->writer.load() == i + 1) {
      // Not yet writing: it waited for readers to end, and has changed nothing.
      if (layout::StateOfHold(word) == layout::HoldState::kWriting) region->abandoned.store(1);
      slot.word.store(layout::HoldWord(layout::HoldState::kIdle));
      region->writer.store(0);  // those who want to read look at it when they wake up
    } else {
      slot.word.store(layout::HoldWord(layout::HoldState::kIdle));
    }
    slot.owner.store(0);
    slot.session.store(0);
    cleared = true;
  }
  if (!cleared) return;
  region->turns.fetch_add(1);
  FutexWake(&region->turns);
}

}  // namespace penstock::server
