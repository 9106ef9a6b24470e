// EventLog: the last events of the node, for watchers and `penstock events`.
//
// Threading:  guarded by the store's mutex.
// Ownership:  keeps names, not pins: what an event speaks of may be gone when it is read.
// Errors:     none; a cursor that is too old shows as `lost`.
// Limits:     kCapacity events. Append is on the path of every put: it reuses the memory of the event that it replaces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "penstock/shape.h"
#include "proto/layout/catalog_layout.h"
#include "store.pb.h"

namespace penstock::server {

struct LoggedEvent {
  v1::Event::Kind kind = v1::Event::UNKNOWN;
  layout::RecordRef record = 0;  // of a put: where all its details are, if it still is the same
  uint64_t record_seq = 0;
  uint64_t sequence = 0;
  uint64_t time_ns = 0;
  uint64_t version = 0;
  uint64_t nbytes = 0;           // this and the next ones: what is still told of a tensor that is gone
  uint8_t dtype = 0;
  uint8_t rank = 0;
  bool elsewhere = false;        // told by another node, the name's home

  bool of_tensor() const { return kind <= v1::Event::EVICT; }
  // Of an event of a tensor:
  std::string_view name() const { return std::string_view(bytes).substr(8 * size_t{rank}); }
  Shape shape() const;
  // Of any other:
  std::string_view text() const { return bytes; }

  std::string bytes;             // the dimensions and the name, or the text
};

class EventLog {
 public:
  static constexpr size_t kCapacity = 16384;

  void Append(v1::Event::Kind kind, uint64_t time_ns, std::string_view text);
  void Append(v1::Event::Kind kind, uint64_t time_ns, layout::RecordRef ref, const layout::Record& record);
  void Append(v1::Event::Kind kind, uint64_t time_ns, const v1::TensorInfo& info, bool elsewhere);
  uint64_t last_sequence() const { return next_ - 1; }
  uint64_t first_sequence() const { return next_ - events_.size(); }

  // Events after `sequence` under `prefix`, at most `limit`. `scanned_to`: the cursor for the next call.
  // `lost`: events between `sequence` and the first one kept are gone. of_homes: none that another node has told.
  std::vector<const LoggedEvent*> After(uint64_t sequence, std::string_view prefix, bool tensors_only, bool of_homes, size_t limit,
                                        uint64_t* scanned_to, bool* lost) const;

 private:
  LoggedEvent& Next(v1::Event::Kind kind, uint64_t time_ns);

  std::vector<LoggedEvent> events_;  // a ring: the event with sequence s is at (s - 1) % kCapacity
  uint64_t next_ = 1;
};

}  // namespace penstock::server
