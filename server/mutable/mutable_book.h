// MutableBook: what a node must know of its channels and regions after it was replaced, in memory that only nodes write.
//
// The channels' and regions' own memory will not do: clients write it. An entry is valid from the store of its state on
// and is changed by single stores only, so a node that dies at any moment leaves a book that can be read.
//
// Threading:  one thread at a time (the lock of MutableMemory)
// Ownership:  the segments are the warden's; entries stay where they are until Give
// Errors:     ResourceExhausted from the warden
// Limits:     kBookHolders openings of an entry are remembered; `more_holders` says that there were more
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/layout/fd_messages.h"
#include "server/store/shared_segments.h"

namespace penstock::server {

inline constexpr uint32_t kBookHolders = 20;

enum class BookState : uint32_t {
  kFree = 0,
  kNamed = 1,    // can be opened by its name
  kUnnamed = 2,  // closed or deleted; still mapped by sessions
};

struct BookHolder {
  std::atomic<uint64_t> session;  // 0 = none
  uint64_t opened;                // number of the request
};

struct BookEntry {
  std::atomic<uint32_t> state;  // BookState
  uint32_t segment;
  layout::MutableKind kind;
  uint32_t slots;
  uint64_t nbytes;
  uint64_t writer;         // of a channel: session
  uint64_t writer_opened;  // and number of its request
  uint8_t dtype;
  uint8_t rank;
  uint16_t name_bytes;
  std::atomic<uint32_t> more_holders;
  uint64_t incarnation;  // of a channel
  uint64_t is_mirror;    // 1: of a channel of another node
  int64_t shape[16];
  char name[512];
  BookHolder holders[kBookHolders];

  std::string_view Name() const { return {name, name_bytes}; }
};
static_assert(sizeof(BookEntry) == 1024);

class MutableBook {
 public:
  explicit MutableBook(SharedSegments* segments) : segments_(segments) {}

  // A book segment of an earlier node process; returns its entries that are in use. Not one that can be read: DataLoss.
  absl::StatusOr<std::vector<BookEntry*>> Adopt(const SharedSegment& segment);
  // A free entry; its fields are the caller's to fill, its state last.
  absl::StatusOr<BookEntry*> Take();
  void Give(BookEntry* entry);

 private:
  static constexpr uint64_t kBookBytes = uint64_t{256} << 10;
  static constexpr uint64_t kBookMagic = 0x314b4f4f424d5450;  // "PTMBOOK1"

  SharedSegments* const segments_;
  std::vector<BookEntry*> free_;
};

}  // namespace penstock::server
