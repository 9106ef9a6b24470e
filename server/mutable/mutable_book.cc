#include "server/mutable/mutable_book.h"

#include <cstring>

#include "proto/strcat.h"

namespace penstock::server {

namespace {

// The first entry's place is the head of the segment.
struct BookHead {
  uint64_t magic;
  uint32_t entry_bytes;
  uint32_t entries;
};

BookEntry* EntriesOf(const SharedSegment& segment) { return static_cast<BookEntry*>(segment.address) + 1; }

}  // namespace

absl::StatusOr<std::vector<BookEntry*>> MutableBook::Adopt(const SharedSegment& segment) {
  const auto* head = static_cast<const BookHead*>(segment.address);
  std::vector<BookEntry*> used;
  if (head->magic == 0) {  // its process died before it used it
    segments_->Drop(segment.id);
    return used;
  }
  if (head->magic != kBookMagic || head->entry_bytes != sizeof(BookEntry) || head->entries >= segment.bytes / sizeof(BookEntry)) {
    return absl::DataLossError(StrCat("the book of channels and regions (segment ", segment.id, ") does not check out"));
  }
  for (uint32_t i = 0; i < head->entries; ++i) {
    BookEntry* entry = EntriesOf(segment) + i;
    (static_cast<BookState>(entry->state.load()) == BookState::kFree ? free_ : used).push_back(entry);
  }
  return used;
}

absl::StatusOr<BookEntry*> MutableBook::Take() {
  if (free_.empty()) {
    absl::StatusOr<SharedSegment> made = segments_->CreateSealed(
        {.kind = layout::SegmentKind::kMutableBook, .bytes = kBookBytes, .huge_pages = false, .populate = false});
    if (!made.ok()) return made.status();
    auto* head = static_cast<BookHead*>(made->address);
    head->entry_bytes = sizeof(BookEntry);
    head->entries = kBookBytes / sizeof(BookEntry) - 1;
    head->magic = kBookMagic;
    for (uint32_t i = 0; i < head->entries; ++i) free_.push_back(EntriesOf(*made) + i);
  }
  BookEntry* entry = free_.back();
  free_.pop_back();
  for (BookHolder& holder : entry->holders) holder.session.store(0);
  entry->more_holders.store(0);
  entry->writer = entry->writer_opened = 0;
  entry->incarnation = entry->is_mirror = 0;
  return entry;
}

void MutableBook::Give(BookEntry* entry) {
  entry->state.store(static_cast<uint32_t>(BookState::kFree));
  free_.push_back(entry);
}

}  // namespace penstock::server
