// What a DirectoryLink counts, from all of its streams.
//
// Threading:  any thread
// Ownership:  shared by the link and its streams, which may end after it
// Errors:     none
// Limits:     numbers are of this process, from 0 on
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"

namespace penstock::server {

struct LinkCounters {
  std::atomic<uint64_t> messages_sent{0}, bytes_sent{0}, messages_received{0}, bytes_received{0};
  std::atomic<uint64_t> messages_dropped{0}, messages_refused{0}, streams_refused{0}, reconnects{0};

  void NoteRefused(std::string why) {
    std::lock_guard lock(mutex_);
    last_refused_ = std::move(why);
  }
  std::string last_refused() const {
    std::lock_guard lock(mutex_);
    return last_refused_;
  }

 private:
  mutable std::mutex mutex_;
  std::string last_refused_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
