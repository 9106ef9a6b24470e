// What a node process finds of the channels and regions of an earlier one.
#include <utility>

#include "proto/layout/channel_layout.h"
#include "proto/layout/region_layout.h"
#include "server/mutable/mutable_memory.h"
#include "server/mutable/region_holds.h"

namespace penstock::server {

using layout::MutableKind;

absl::Status MutableMemory::Recover() {
  std::vector<BookEntry*> entries;
  std::map<uint32_t, SharedSegment> segments;
  std::lock_guard lock(mutex_);
  for (const SharedSegment& segment : store_->TakeMutableSegments()) {
    if (segment.kind != layout::SegmentKind::kMutableBook) {
      segments[segment.id] = segment;
      continue;
    }
    absl::StatusOr<std::vector<BookEntry*>> used = book_.Adopt(segment);
    if (!used.ok()) return used.status();
    entries.insert(entries.end(), used->begin(), used->end());
  }
  for (BookEntry* entry : entries) {
    const auto segment = segments.find(entry->segment);
    if (segment == segments.end()) {  // dropped before its entry was
      book_.Give(entry);
      continue;
    }
    RecoverItem(entry, segment->second);
    segments.erase(segment);
  }
  for (const auto& [id, segment] : segments) {  // never got a name
    store_->segments().Drop(id);
    store_->ReleaseMutable(segment.kind, segment.bytes);
  }
  return absl::OkStatus();
}

void MutableMemory::RecoverItem(BookEntry* entry, const SharedSegment& segment) {
  Item& item = items_[segment.id];
  item.spec = {.kind = entry->kind, .create = true, .exclusive = false, .name = std::string(entry->Name()), .nbytes = entry->nbytes, .slots = entry->slots,
               .dtype = static_cast<DType>(entry->dtype), .shape = Shape(absl::MakeConstSpan(entry->shape, entry->rank))};
  item.shared = segment;
  item.entry = entry;
  item.incarnation = entry->incarnation;
  item.is_mirror = entry->is_mirror != 0;
  item.named = static_cast<BookState>(entry->state.load()) == BookState::kNamed;
  if (item.named) names_[{item.spec.kind, item.spec.name}] = segment.id;
  if (item.named && entry->kind == MutableKind::kChannel) item.writer = {entry->writer, entry->writer_opened};
  RecoverHolders(item);
  if (item.writer.session != 0 && store_->FindSession(item.writer.session) == nullptr) Close(item);
  if (entry->kind == MutableKind::kRegion) {
    ClearHolds(static_cast<layout::RegionHeader*>(segment.address),
               [this](uint64_t session) { return store_->FindSession(session) == nullptr; });
  } else {
    layout::ChannelHeaderAt(segment.address)->followed.store(0);  // who did was known to the process that died
  }
  if (item.is_mirror && item.named && HasReaders(item)) {
    (void)AddHolder(item, {kNodeHolder, segment.id});
    recovered_mirrors_.push_back({.segment = segment.id, .address = static_cast<char*>(segment.address), .facts = FactsOf(item), .made = false});
  }
  DropIfUnused(segment.id);
}

void MutableMemory::RecoverHolders(Item& item) {
  for (const BookHolder& kept : item.entry->holders) {
    const uint64_t session = kept.session.load();
    const bool alive = session != 0 && store_->FindSession(session) != nullptr;
    item.holders.push_back(alive ? Holder{session, kept.opened} : Holder{});
  }
  if (item.entry->more_holders.load() == 0) return;
  for (const std::shared_ptr<Session>& session : store_->Sessions()) {  // who the others were is not known: whoever is there may be one
    item.holders.push_back({session->id, 0});
  }
}

}  // namespace penstock::server
