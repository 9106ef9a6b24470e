// Restart: ends this process because somebody asked for it (penstock node restart), for the next one to go on.
//
// The warden first looks whether the library on disk could take over; if not, nothing happens. Sessions, memory and the
// membership of the cluster stay: the next process goes on with them as after a death, but nobody had to find out.
//
// Threading:  any thread
// Ownership:  the warden client must outlive it
// Errors:     FAILED_PRECONDITION: the library on disk is not fit; the message says why
// Limits:     Ask waits while the warden checks the library (tens of milliseconds, 20 s at most)
#pragma once

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "proto/strcat.h"
#include "server/warden/warden_client.h"

namespace penstock::server {

class Restart {
 public:
  explicit Restart(warden::WardenClient* warden) : warden_(warden) {}

  // Once it was granted the process has a SIGTERM, and ends soon.
  absl::Status Ask() {
    std::lock_guard lock(mutex_);
    if (wanted_) return absl::OkStatus();
    if (absl::Status s = warden_->RestartNode(); !s.ok()) {
      return absl::Status(s.code(), StrCat("restart: the node goes on as it is: ", std::string(s.message())));
    }
    wanted_ = true;
    kill(getpid(), SIGTERM);
    return absl::OkStatus();
  }
  bool wanted() const { return wanted_; }

 private:
  warden::WardenClient* const warden_;
  std::mutex mutex_;
  std::atomic<bool> wanted_{false};
};

}  // namespace penstock::server
