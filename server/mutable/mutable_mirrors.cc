// Channels between nodes: what others follow here, and the mirrors of what is written there.
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "proto/layout/channel_layout.h"
#include "proto/strcat.h"
#include "server/mutable/mutable_memory.h"
#include "transport/fault_point.h"

namespace penstock::server {

using layout::MutableKind;

namespace {

constexpr layout::SegmentKind kChannelSegment = layout::SegmentKind::kChannel;

absl::Status NotWrittenHere(const std::string& name) { return absl::NotFoundError(StrCat("no channel \"", name, "\" is written on this node")); }

}  // namespace

// Who follows the channel sleeps on the bell, not on its memory.
void MutableMemory::RingBell(const layout::ChannelHeader& header) const {
  const uint64_t one = 1;
  if (header.followed.load() != 0 && write(bell_fd_, &one, sizeof(one)) < 0) return;  // rung already
}

MutableMemory::Item* MutableMemory::FindWritten(const std::string& name) {
  const auto it = names_.find({MutableKind::kChannel, name});
  if (it == names_.end()) return nullptr;
  Item& item = items_.at(it->second);
  return item.is_mirror || item.entry == nullptr ? nullptr : &item;
}

MutableMemory::Facts MutableMemory::FactsOf(const Item& item) {
  return {.spec = item.spec, .incarnation = item.incarnation, .newest = layout::ChannelHeaderAt(item.shared.address)->latest.load()};
}

absl::StatusOr<MutableMemory::Facts> MutableMemory::Look(const std::string& name) {
  std::lock_guard lock(mutex_);
  const Item* item = FindWritten(name);
  if (item == nullptr) return NotWrittenHere(name);
  return FactsOf(*item);
}

absl::StatusOr<std::shared_ptr<ChannelSource>> MutableMemory::Follow(const std::string& name, Facts* facts) {
  uint64_t writer = 0, nbytes = 0;
  uint32_t segment = 0;
  {
    std::lock_guard lock(mutex_);
    const Item* item = FindWritten(name);
    if (item == nullptr) return NotWrittenHere(name);
    writer = item->writer.session;
    nbytes = item->spec.nbytes;
    segment = item->shared.id;
  }
  if (absl::Status s = store_->ReserveMutable(writer, kChannelSegment, nbytes, 0); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  Item* item = FindWritten(name);
  const uint64_t number = ++last_follower_;
  const absl::Status added = item == nullptr || item->shared.id != segment ? NotWrittenHere(name) : AddHolder(*item, {kFollowerHolder, number});
  if (!added.ok()) {
    store_->ReleaseMutable(kChannelSegment, nbytes, 0);
    return added;
  }
  ++item->followers;
  layout::ChannelHeaderAt(item->shared.address)->followed.store(1);  // before the follower's first look at the newest step
  *facts = FactsOf(*item);
  return std::make_shared<ChannelSource>(ChannelSource::Where{.memory = item->shared.address, .nbytes = nbytes, .slots = item->spec.slots},
                                         [this, segment, number, nbytes] { Unfollow(segment, number, nbytes); });
}

void MutableMemory::Unfollow(uint32_t segment, uint64_t number, uint64_t nbytes) {
  store_->ReleaseMutable(kChannelSegment, nbytes, 0);
  std::lock_guard lock(mutex_);
  Item& item = items_.at(segment);  // there, because the follower held it
  if (--item.followers == 0) layout::ChannelHeaderAt(item.shared.address)->followed.store(0);
  RemoveFollower(item, number);
}

void MutableMemory::RemoveFollower(Item& item, uint64_t number) {
  for (size_t i = 0; i < item.holders.size(); ++i) {
    if (item.holders[i].session == kFollowerHolder && item.holders[i].opened == number) RemoveHolder(item, i);
  }
  DropIfUnused(item.shared.id);
}

absl::StatusOr<std::shared_ptr<const void>> MutableMemory::HoldMirror(Item& item) {
  const uint64_t number = ++last_follower_;
  if (absl::Status s = AddHolder(item, {kFollowerHolder, number}); !s.ok()) return s;
  return std::shared_ptr<const void>(item.shared.address, [this, segment = item.shared.id, number](const void*) {
    std::lock_guard lock(mutex_);
    RemoveFollower(items_.at(segment), number);
  });
}

absl::StatusOr<MutableMemory::MirrorMemory> MutableMemory::MakeMirror(uint64_t session, uint64_t opened, const Facts& facts, const std::string& home) {
  const Holder reader{session, opened};
  {
    std::lock_guard lock(mutex_);
    if (Item* item = FindNamed(facts.spec)) {
      if (!item->is_mirror || item->incarnation == facts.incarnation) return OpenMirror(*item, reader, /*made=*/false);
    }
    if (items_.size() >= kMaxMutable) {
      return absl::ResourceExhaustedError(StrCat("the node has ", items_.size(), " channels and regions, the most that it may; close some"));
    }
  }
  const uint64_t bytes = layout::ChannelBytes(facts.spec.nbytes, facts.spec.slots);
  if (absl::Status s = store_->ReserveMutable(session, kChannelSegment, bytes); !s.ok()) return s;
  const absl::StatusOr<SharedSegment> memory =
      store_->segments().CreateSealed({.kind = kChannelSegment, .bytes = bytes, .huge_pages = false, .populate = true});
  if (!memory.ok()) {
    store_->ReleaseMutable(kChannelSegment, bytes);
    return memory.status();
  }
  PENSTOCK_FAULT_POINT("node.mirror.made");
  std::lock_guard lock(mutex_);
  absl::StatusOr<MirrorMemory> mirror = EnterMirror(*memory, reader, facts, home);
  if (mirror.ok() && mirror->made) return mirror;
  store_->segments().Drop(memory->id);
  store_->ReleaseMutable(kChannelSegment, bytes);
  return mirror;
}

absl::StatusOr<MutableMemory::MirrorMemory> MutableMemory::EnterMirror(const SharedSegment& memory, const Holder& reader, const Facts& facts, const std::string& home) {
  if (Item* item = FindNamed(facts.spec)) {
    if (!item->is_mirror || item->incarnation == facts.incarnation) return OpenMirror(*item, reader, /*made=*/false);
    Close(*item);  // the name has another channel now
    if (on_mirror_over_) on_mirror_over_();
  }
  Item& item = items_[memory.id];
  item.spec = facts.spec;
  item.shared = memory;
  item.incarnation = facts.incarnation;
  item.is_mirror = true;
  item.home = home;
  item.holders.push_back({kNodeHolder, memory.id});
  names_[{item.spec.kind, item.spec.name}] = memory.id;
  absl::StatusOr<MirrorMemory> mirror = absl::UnknownError("");
  const absl::Status entered = Enter(item);
  if (entered.ok()) mirror = OpenMirror(item, reader, /*made=*/true);
  if (entered.ok() && mirror.ok()) return mirror;
  Unname(item);
  if (item.entry != nullptr) book_.Give(item.entry);
  items_.erase(memory.id);
  return entered.ok() ? mirror.status() : entered;
}

absl::StatusOr<MutableMemory::MirrorMemory> MutableMemory::OpenMirror(Item& item, const Holder& reader, bool made) {
  if (!item.is_mirror) return absl::AlreadyExistsError(StrCat("channel \"", item.spec.name, "\": is written on this node now"));
  if (store_->FindSession(reader.session) == nullptr) return absl::UnavailableError("the session has ended");
  const bool again = std::any_of(item.holders.begin(), item.holders.end(), [&](const Holder& known) {
    return known.session == reader.session && known.opened == reader.opened;
  });
  if (!again) {
    if (absl::Status s = AddHolder(item, reader); !s.ok()) return s;
  }
  absl::StatusOr<std::shared_ptr<const void>> hold = HoldMirror(item);
  if (!hold.ok()) return hold.status();
  return MirrorMemory{.segment = item.shared.id, .address = static_cast<char*>(item.shared.address), .facts = FactsOf(item), .made = made, .hold = *std::move(hold)};
}

void MutableMemory::SetMirrorHome(uint32_t segment, const std::string& home) {
  std::lock_guard lock(mutex_);
  if (const auto it = items_.find(segment); it != items_.end()) it->second.home = home;
}

bool MutableMemory::HasReaders(const Item& item) {
  return std::any_of(item.holders.begin(), item.holders.end(), [](const Holder& h) { return h.session != 0 && h.session != kNodeHolder; });
}

void MutableMemory::LetGo(Item& item) {
  for (size_t i = 0; i < item.holders.size(); ++i) {
    if (item.holders[i].session == kNodeHolder) RemoveHolder(item, i);
  }
  DropIfUnused(item.shared.id);
}

void MutableMemory::CloseMirror(uint32_t segment) {
  std::lock_guard lock(mutex_);
  Item& item = items_.at(segment);
  Close(item);
  LetGo(item);
}

bool MutableMemory::IsMirrorOver(uint32_t segment) {
  std::lock_guard lock(mutex_);
  return IsOver(items_.at(segment));
}

bool MutableMemory::EndMirrorIfOver(uint32_t segment) {
  std::lock_guard lock(mutex_);
  Item& item = items_.at(segment);
  if (!IsOver(item)) return false;
  LetGo(item);
  return true;
}

}  // namespace penstock::server
