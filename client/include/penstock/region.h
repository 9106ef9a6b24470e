// Regions: memory that the processes of a host change together, with a reader/writer lock that outlives its holders.
//
//   auto region = client->OpenRegion("work", {.nbytes = 1 << 20});      // made if there is none
//   {
//     absl::StatusOr<RegionHold> hold = region->Write({.timeout = absl::Seconds(1)});
//     if (hold->abandoned()) Repair(region->data());                    // a writer died in the middle
//     Fill(region->data(), region->nbytes());
//   }                                                                   // the hold ends here
//
// The lock is advice: a region's memory is writable for all who have it open, held or not. Readers share, writers are alone.
// A writer that waits stops new readers; readers that waited for a writer go before the next one; writers go in the order in
// which they came. A process that dies gives back what it held, within a second.
//
// A region lives until no session has it open any more, or until it is deleted: then its name is gone at once, and its
// memory with the last who has it open. Its bytes are zero at first. What must last belongs in a tensor (client.h).
//
// Threading:  Region: any thread. RegionHold: one thread at a time; it may be released in another thread than it was taken in.
// Ownership:  they keep what they need of the session alive, and may outlive the Client. A hold keeps the memory mapped.
// Errors:     InvalidArgument (field), NotFound, AlreadyExists (exclusive), DeadlineExceeded (the lock; nothing is held),
//             FailedPrecondition (a deadlock: the same owner holds it so that it would wait for itself; released twice;
//             closed), ResourceExhausted (store full; too many holds), Unavailable (the store has ended).
// Fork:       a region goes on in the child, with a session of the child's own; holds stay the parent's.
// Limits:     processes of the same host. 252 holds and waiters of a region at a time. A free lock costs some 100 ns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace penstock {

namespace client {
class MutableMapping;  // internal
class RegionShare;     // internal
}  // namespace client

struct RegionOptions {
  uint64_t nbytes = 0;                            // 0: it must be there, of any size
  bool exclusive = false;                         // AlreadyExists if it is there
  absl::Duration timeout = absl::ZeroDuration();  // for it to appear; only with nbytes 0
};

struct HoldOptions {
  absl::Duration timeout = absl::InfiniteDuration();
  // Who takes it, of this process: who asks for what he would wait for himself to give back is refused. 0: the thread.
  uint64_t owner = 0;
  // Asked ten times a second while it waits; true ends the call with CANCELLED.
  std::function<bool()> cancelled;
};

class RegionHold {
 public:
  RegionHold(RegionHold&& other) noexcept = default;
  RegionHold& operator=(RegionHold&& other) noexcept;
  ~RegionHold() { Release().IgnoreError(); }

  bool held() const { return mapping_ != nullptr; }
  bool writing() const { return writing_; }
  // A writer has died while it wrote, and nobody has written a whole turn since: the bytes may be half-written.
  bool abandoned() const { return abandoned_; }
  absl::Status Release();  // FailedPrecondition: it was released before

 private:
  friend class Region;
  RegionHold(std::shared_ptr<client::MutableMapping> mapping, uint32_t slot, bool writing);
  std::shared_ptr<client::MutableMapping> mapping_;  // the region's too
  uint32_t slot_;
  bool writing_;
  bool abandoned_ = false;
};

struct RegionState {
  enum class Mode { kIdle, kReading, kWriting };
  Mode mode = Mode::kIdle;
  std::vector<uint64_t> owners;  // their sessions: of the writer, or one for each reader
  uint32_t waiting = 0;          // for a hold
  bool abandoned = false;
  std::string ToString() const;  // "idle", "reading by 2", "writing"
};

class Region {
 public:
  Region(Region&&) noexcept = default;
  Region& operator=(Region&&) noexcept = default;
  ~Region() = default;

  const std::string& name() const { return name_; }
  uint64_t nbytes() const { return nbytes_; }
  // Writable, at a page's beginning. In a forked child: mapped anew by the first call, so ask again there.
  std::byte* data() const;
  bool created() const { return created_; }  // by this call, not by somebody before
  bool deleted() const;                      // its name is gone
  bool closed() const;

  absl::StatusOr<RegionHold> Read(const HoldOptions& options = {}) const;
  absl::StatusOr<RegionHold> Write(const HoldOptions& options = {}) const;
  RegionState state() const;  // as it was a moment ago
  absl::StatusOr<bool> Delete() const;  // false: the name was gone, or is another region's
  void Close();  // idempotent; holds stay

  // The memory as it is now, to be kept by who shows it to others.
  std::shared_ptr<const void> Share() const;

 private:
  friend class Client;
  Region() = default;
  absl::StatusOr<std::shared_ptr<client::MutableMapping>> Mapping() const;
  absl::StatusOr<RegionHold> Hold(const HoldOptions& options, bool write) const;

  std::shared_ptr<client::RegionShare> share_;  // shared with threads that are inside a call while it is closed
  std::string name_;
  uint64_t nbytes_ = 0;
  bool created_ = false;
};

}  // namespace penstock
