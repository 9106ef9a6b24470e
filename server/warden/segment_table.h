// SegmentTable: the segments that the warden holds: descriptor, writable mapping, what is known.
//
// They outlive the node. A forked node finds each one mapped writable at the address it has here,
// although it is sealed: no other process can get such a mapping any more.
//
// Threading:  one thread at a time (the warden has one)
// Ownership:  owns descriptors and mappings; a forked child takes its copy of them with Inherit()
// Errors:     RESOURCE_EXHAUSTED (descriptors, memory, mappings), NOT_FOUND (no such segment),
//             INVALID_ARGUMENT (kind, size), FAILED_PRECONDITION (marked as sealed but is not)
// Limits:     ids 1..2^32-1, never used twice; segments of at most 2^46 bytes
#ifndef PENSTOCK_SERVER_WARDEN_SEGMENT_TABLE_H_
#define PENSTOCK_SERVER_WARDEN_SEGMENT_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/warden/warden_client.h"
#include "transport/segment/mapping.h"
#include "transport/segment/memfd.h"
#include "transport/unique_fd.h"

namespace penstock::warden {

class SegmentTable {
 public:
  struct Entry {
    uint32_t id = 0;
    layout::SegmentKind kind;
    PageKind page_kind = PageKind::kSmall;
    bool ready = true;  // false: must be populated before anybody may inherit it
    UniqueFd fd;
    Mapping mapping;
  };

  // `huge` is what a request for huge pages gets if the system has it. `on_fallback` hears why it
  // did not.
  SegmentTable(PageKind huge, std::function<void(const std::string&)> on_fallback)
      : huge_(huge), on_fallback_(std::move(on_fallback)) {}

  // Makes the memfd, seals its size and maps it. The pointer lives until Drop.
  absl::StatusOr<const Entry*> Create(layout::SegmentKind kind, uint64_t bytes, bool huge_pages,
                                      bool ready);
  absl::StatusOr<const Entry*> Find(uint32_t id) const;
  absl::Status SetReady(uint32_t id);
  absl::Status CheckSealed(uint32_t id) const;
  absl::Status Drop(uint32_t id);

  // Forgets what is not ready: its node died while it was made.
  void DropUnready();

  // In a forked child: what the table holds, as the node sees it. The table is empty afterwards.
  std::vector<Segment> Inherit();

  size_t size() const { return entries_.size(); }

 private:
  const PageKind huge_;
  const std::function<void(const std::string&)> on_fallback_;
  uint32_t last_id_ = 0;
  std::map<uint32_t, Entry> entries_;
};

// "arena", "pins", ...; empty for a value that is no kind.
const char* SegmentKindName(layout::SegmentKind kind);

}  // namespace penstock::warden

#endif  // PENSTOCK_SERVER_WARDEN_SEGMENT_TABLE_H_
