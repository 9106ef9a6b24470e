// Mirror: writes a channel of another node into this node's memory of it, for readers here (proto/layout/channel_layout.h).
//
// Threading:  Begin, End, Break and SetAway: one thread at a time. The rest: any thread.
// Ownership:  the memory is MutableMemory's, and must not be let go of while this is written to
// Errors:     none; `failure` is kept for who waits for the first step
// Limits:     none
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "server/mutable/mutable_memory.h"

namespace penstock::server {

class Mirror {
 public:
  explicit Mirror(MutableMemory::MirrorMemory memory) : memory_(std::move(memory)) { memory_.hold = nullptr; }

  const std::string& name() const { return memory_.facts.spec.name; }
  uint32_t segment() const { return memory_.segment; }
  uint64_t nbytes() const { return memory_.facts.spec.nbytes; }
  // Whether what is there now is what this was made for.
  bool IsOf(const MutableMemory::Facts& facts) const;
  uint64_t latest() const;
  // After it is told, the first step of who has seen this one is the newest one there.
  uint64_t After(uint64_t newest_there) const;

  char* Begin(uint64_t seq);  // where the bytes of the step belong; seq > latest()
  void End();
  void Break();  // it did not come whole
  void SetAway(bool away);

  // It is followed; who opens it need wait no longer if there is no step.
  void Followed();
  bool followed() const { return followed_.load(); }
  void Fail(absl::Status why);
  absl::Status failure() const;

 private:
  MutableMemory::MirrorMemory memory_;  // constant from here on
  uint64_t writing_ = 0;  // step; 0: none
  std::atomic<bool> followed_{false};
  mutable std::mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
