// EventLog: the last events of the node, for watchers and `penstock events`.
//
// Threading:  guarded by the store's mutex.
// Ownership:  keeps names, not pins: what an event speaks of may be gone when it is read.
// Errors:     none; a cursor that is too old shows as `lost`.
// Limits:     kCapacity events.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/shape.h"
#include "proto/layout/catalog_layout.h"
#include "store.pb.h"

namespace penstock::server {

struct LoggedEvent {
  v1::Event::Kind kind;
  uint64_t sequence;
  uint64_t time_ns;
  std::string name;
  uint64_t version;
  layout::RecordRef record;  // of a put: where all its details are, if it still is the same
  uint64_t record_seq;
  std::string text;
  uint8_t dtype = 0;         // what is still told of a tensor that is gone
  Shape shape;
  uint64_t nbytes = 0;
};

class EventLog {
 public:
  static constexpr size_t kCapacity = 16384;

  void Append(LoggedEvent event);
  uint64_t last_sequence() const { return next_ - 1; }
  uint64_t first_sequence() const { return next_ - events_.size(); }

  // Events after `sequence` under `prefix`, at most `limit`. `scanned_to`: the cursor for the next call.
  // `lost`: events between `sequence` and the first one kept are gone.
  std::vector<const LoggedEvent*> After(uint64_t sequence, std::string_view prefix, bool tensors_only, size_t limit,
                                        uint64_t* scanned_to, bool* lost) const;

 private:
  std::deque<LoggedEvent> events_;
  uint64_t next_ = 1;
};

}  // namespace penstock::server
