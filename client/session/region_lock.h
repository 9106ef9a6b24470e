// The lock of a region, as its clients work it (proto/layout/region_layout.h has the rules).
//
// Threading:  any thread of any process that has the region mapped
// Ownership:  none; the memory must stay mapped, and `turns` outlive it
// Errors:     DeadlineExceeded, Cancelled, FailedPrecondition (it would wait for itself), ResourceExhausted (no slot)
// Limits:     a scan of the slots in use for each write; waits wake up ten times a second to look at `look_around`
#ifndef PENSTOCK_CLIENT_SESSION_REGION_LOCK_H_
#define PENSTOCK_CLIENT_SESSION_REGION_LOCK_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/session/deadline.h"
#include "client/session/turns.h"
#include "proto/layout/region_layout.h"

namespace penstock::client {

class RegionLock {
 public:
  struct Asker {
    uint64_t session = 0;  // not 0
    uint64_t owner = 0;    // of the session: finds deadlocks
  };
  // Not OK ends a wait.
  using LookAround = std::function<absl::Status()>;

  RegionLock(layout::RegionHeader* region, Turns* turns) : region_(region), turns_(*turns) {}

  // The slot of the hold.
  absl::StatusOr<uint32_t> Read(const Asker& asker, const Deadline& deadline, const LookAround& look_around);
  absl::StatusOr<uint32_t> Write(const Asker& asker, const Deadline& deadline, const LookAround& look_around);
  void EndRead(uint32_t slot);
  void EndWrite(uint32_t slot);

 private:
  absl::Status CheckDeadlock(const Asker& asker, bool write, bool* nested) const;
  absl::StatusOr<uint32_t> TakeSlot(const Asker& asker);
  void GiveSlot(uint32_t slot);
  bool TryRead(uint32_t slot);
  bool WithdrawRead(uint32_t slot);
  bool TryTakeWriter(uint32_t slot, bool not_in_turn);
  bool AnyReader(uint32_t but) const;
  uint32_t used() const;
  void PassOn();
  void Wake();
  absl::Status Sleep(uint32_t seen, absl::Duration longest, const Deadline& deadline, const LookAround& look_around);

  layout::RegionHeader* const region_;
  Turns& turns_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_REGION_LOCK_H_
