#include "client/session/region_lock.h"

#include <algorithm>

#include "proto/strcat.h"
#include "transport/fault_point.h"
#include "transport/futex.h"

namespace penstock::client {
namespace {

using layout::HoldState;
using layout::HoldWord;
using layout::kHoldSlots;
using layout::StateOfHold;
using layout::TicketOfHold;

constexpr absl::Duration kSlice = absl::Milliseconds(100);
// For how long a free lock is left to one who came earlier and has not woken up yet (or is stopped).
constexpr absl::Duration kCourtesy = absl::Milliseconds(2);

constexpr uint64_t kReading = HoldWord(HoldState::kReading);
constexpr uint64_t kWantRead = HoldWord(HoldState::kWantRead);

}  // namespace

absl::Status RegionLock::CheckDeadlock(const Asker& asker, bool write, bool* nested) const {
  *nested = false;
  for (uint32_t i = 0; i < used(); ++i) {
    const layout::HoldSlot& slot = region_->slots[i];
    if (slot.session.load() != asker.session || slot.owner.load() != asker.owner) continue;
    const HoldState state = StateOfHold(slot.word.load());
    const bool writes = state == HoldState::kWriting;
    if (!writes && state != HoldState::kReading) continue;
    if (write || writes) {
      return absl::FailedPreconditionError(StrCat("region: this owner holds it for ", writes ? "writing" : "reading", " and asks for ",
                                                  write ? "writing" : "reading", ", which would wait for ever; release the first hold"));
    }
    *nested = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> RegionLock::TakeSlot(const Asker& asker) {
  for (uint32_t i = 0; i < kHoldSlots; ++i) {
    layout::HoldSlot& slot = region_->slots[i];
    uint64_t nobody = 0;
    if (slot.session.load(std::memory_order_relaxed) != 0 || !slot.session.compare_exchange_strong(nobody, asker.session)) continue;
    slot.owner.store(asker.owner);
    // Before its word says anything, so that nobody overlooks it.
    for (uint32_t before = region_->used.load(); before <= i && !region_->used.compare_exchange_weak(before, i + 1);) {
    }
    return i;
  }
  return absl::ResourceExhaustedError(StrCat("region: all ", kHoldSlots, " places of those who hold it or wait for it are taken"));
}

void RegionLock::GiveSlot(uint32_t slot) {
  region_->slots[slot].word.store(HoldWord(HoldState::kIdle));
  region_->slots[slot].owner.store(0);
  region_->slots[slot].session.store(0);
}

void RegionLock::Wake() {
  region_->turns.fetch_add(1);
  if (region_->waiting.load() != 0) FutexWake(&region_->turns);
}

absl::Status RegionLock::Sleep(uint32_t seen, absl::Duration longest, const Deadline& deadline, const LookAround& look_around) {
  if (deadline.Passed()) return absl::DeadlineExceededError("region: others hold it, and the time is over");
  region_->waiting.fetch_add(1);
  turns_.Await(region_->turns, seen, deadline.Slice(longest));
  region_->waiting.fetch_sub(1);
  return look_around();
}

// One look: the word says reading before `writer` is looked at; a writer does it the other way round.
bool RegionLock::TryRead(uint32_t slot) {
  std::atomic<uint64_t>& word = region_->slots[slot].word;
  uint64_t wants = kWantRead;
  if (!word.compare_exchange_strong(wants, kReading)) return true;  // a writer that ended has let us in
  if (region_->writer.load() == 0) return true;
  word.store(kWantRead);
  Wake();  // a writer may have seen us reading
  return false;
}

bool RegionLock::WithdrawRead(uint32_t slot) {
  uint64_t wants = kWantRead;
  return region_->slots[slot].word.compare_exchange_strong(wants, HoldWord(HoldState::kIdle));
}

absl::StatusOr<uint32_t> RegionLock::Read(const Asker& asker, const Deadline& deadline, const LookAround& look_around) {
  bool nested = false;
  if (absl::Status s = CheckDeadlock(asker, /*write=*/false, &nested); !s.ok()) return s;
  const absl::StatusOr<uint32_t> slot = TakeSlot(asker);
  if (!slot.ok()) return slot;
  std::atomic<uint64_t>& word = region_->slots[*slot].word;
  if (nested) {  // no writer writes while we read; one that waits for us must not keep us from reading on
    word.store(kReading);
    return *slot;
  }
  word.store(kWantRead);
  while (true) {
    const uint32_t seen = region_->turns.load();
    if (word.load() == kReading || (region_->writer.load() == 0 && TryRead(*slot))) return *slot;
    const absl::Status slept = Sleep(seen, kSlice, deadline, look_around);
    if (slept.ok() || !WithdrawRead(*slot)) continue;  // not withdrawn: it is ours
    GiveSlot(*slot);
    return slept;
  }
}

void RegionLock::EndRead(uint32_t slot) {
  GiveSlot(slot);
  if (region_->writer.load() != 0) Wake();
}

bool RegionLock::TryTakeWriter(uint32_t slot, bool not_in_turn) {
  if (region_->writer.load() != 0) return false;
  const uint64_t ticket = TicketOfHold(region_->slots[slot].word.load());
  for (uint32_t i = 0; i < used() && !not_in_turn; ++i) {
    const uint64_t word = region_->slots[i].word.load();
    if (StateOfHold(word) == HoldState::kWantWrite && TicketOfHold(word) < ticket) return false;
  }
  uint32_t nobody = 0;
  return region_->writer.compare_exchange_strong(nobody, slot + 1);
}

uint32_t RegionLock::used() const { return std::min(region_->used.load(), kHoldSlots); }

bool RegionLock::AnyReader(uint32_t but) const {
  for (uint32_t i = 0; i < used(); ++i) {
    if (i != but && region_->slots[i].word.load() == kReading) return true;
  }
  return false;
}

// Ends a turn of writing: those who waited to read are let in, then the lock is free.
void RegionLock::PassOn() {
  for (uint32_t i = 0; i < used(); ++i) {
    layout::HoldSlot& slot = region_->slots[i];
    uint64_t wants = kWantRead;
    if (slot.word.load() == kWantRead) slot.word.compare_exchange_strong(wants, kReading);
  }
  region_->writer.store(0);
}

absl::StatusOr<uint32_t> RegionLock::Write(const Asker& asker, const Deadline& deadline, const LookAround& look_around) {
  bool nested = false;
  if (absl::Status s = CheckDeadlock(asker, /*write=*/true, &nested); !s.ok()) return s;
  const absl::StatusOr<uint32_t> taken = TakeSlot(asker);
  if (!taken.ok()) return taken;
  const uint32_t slot = *taken;
  std::atomic<uint64_t>& word = region_->slots[slot].word;
  word.store(HoldWord(HoldState::kWantWrite, region_->next_ticket.fetch_add(1)));
  bool has_lock = false;
  bool courteous = false;  // the lock was free, and left to one who came earlier
  while (true) {
    const uint32_t seen = region_->turns.load();
    if (!has_lock) has_lock = TryTakeWriter(slot, courteous);
    if (has_lock && !AnyReader(slot)) break;
    const bool left_to_another = !has_lock && region_->writer.load() == 0;
    const absl::Status slept = Sleep(seen, left_to_another ? kCourtesy : kSlice, deadline, look_around);
    courteous = left_to_another && region_->turns.load() == seen;
    if (slept.ok()) continue;
    if (has_lock) PassOn();
    GiveSlot(slot);
    Wake();  // others waited for our turn to come first
    return slept;
  }
  word.store(HoldWord(HoldState::kWriting));
  PENSTOCK_FAULT_POINT("client.region.writing");
  return slot;
}

void RegionLock::EndWrite(uint32_t slot) {
  region_->abandoned.store(0);  // a whole turn: whoever wrote it was told
  PassOn();
  PENSTOCK_FAULT_POINT("client.region.passed_on");
  GiveSlot(slot);
  Wake();
}

}  // namespace penstock::client
