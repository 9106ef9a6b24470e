#include "server/mutable/mutable_memory.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "proto/errors.h"
#include "proto/layout/channel_layout.h"
#include "proto/layout/region_layout.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/mutable/region_holds.h"
#include "transport/fault_point.h"
#include "transport/futex.h"

namespace penstock::server {

using layout::MutableKind;

namespace {

const char* Word(MutableKind kind) { return kind == MutableKind::kChannel ? "channel" : "region"; }
layout::SegmentKind SegmentKindOf(MutableKind kind) {
  return kind == MutableKind::kChannel ? layout::SegmentKind::kChannel : layout::SegmentKind::kRegion;
}
uint64_t SegmentBytes(const MutableSpec& spec) {
  return spec.kind == MutableKind::kChannel ? layout::ChannelBytes(spec.nbytes, spec.slots) : layout::RegionBytes(spec.nbytes);
}
std::string Geometry(const MutableSpec& spec) { return StrCat(DTypeName(spec.dtype), " ", spec.shape.ToString()); }

uint64_t NewIncarnation() {
  uint64_t number = 0;
  while (number == 0 && getrandom(&number, sizeof(number), 0) == static_cast<ssize_t>(sizeof(number))) {
  }
  return number;
}

// So that no client can seal it against those who open it later.
bool SealTheSeals(const SharedSegments& segments, uint32_t id) {
  SharedSegment info;
  const UniqueFd fd = segments.Descriptor(id, &info);
  return fd && fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL) == 0;
}

constexpr uint64_t kMaxBytes = uint64_t{1} << 45;  // below what the warden makes; no sum with it overflows

}  // namespace

absl::Status CheckChannel(const MutableSpec& spec) {
  if (spec.slots < layout::kMinSlots || spec.slots > layout::kMaxSlots) {
    return absl::InvalidArgumentError(StrCat("slots: is ", spec.slots, "; allowed are ", layout::kMinSlots, " to ", layout::kMaxSlots));
  }
  if (!IsValid(spec.dtype)) return absl::InvalidArgumentError(StrCat("dtype: ", static_cast<int>(spec.dtype), " is not a dtype of this store"));
  const absl::StatusOr<uint64_t> bytes = ByteSize(spec.dtype, spec.shape);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != spec.nbytes) {
    return absl::InvalidArgumentError(StrCat("nbytes: ", spec.nbytes, " is not the size of ", Geometry(spec), " (", *bytes, ")"));
  }
  if (spec.nbytes > kMaxBytes / spec.slots) return absl::InvalidArgumentError(StrCat("slots: ", spec.slots, " of ", spec.nbytes, " bytes are too many"));
  return absl::OkStatus();
}

absl::StatusOr<MutableSpec> MutableSpec::FromMessage(const layout::MutableRequest& message) {
  MutableSpec spec{.kind = message.kind, .create = (message.flags & layout::kMutableCreate) != 0,
                   .exclusive = (message.flags & layout::kMutableExclusive) != 0, .name = {}, .nbytes = message.nbytes, .slots = message.slots, .dtype = static_cast<DType>(message.dtype), .shape = {}};
  if (spec.kind != MutableKind::kChannel && spec.kind != MutableKind::kRegion) {
    return absl::InvalidArgumentError(StrCat("kind: ", static_cast<uint32_t>(spec.kind), " is neither a channel nor a region"));
  }
  if (message.name_bytes > sizeof(message.name)) return absl::InvalidArgumentError(StrCat("name: has ", message.name_bytes, " bytes; at most 512"));
  spec.name.assign(message.name, message.name_bytes);
  if (absl::Status s = ValidateUserName(spec.name); !s.ok()) return s;
  if (!spec.create) return spec;
  if (spec.kind == MutableKind::kChannel) {
    if (message.rank > kMaxRank) return absl::InvalidArgumentError(StrCat("shape: has ", int{message.rank}, " dimensions; at most ", kMaxRank));
    absl::StatusOr<Shape> shape = Shape::Create(absl::MakeConstSpan(message.shape, message.rank));
    if (!shape.ok()) return shape.status();
    spec.shape = *shape;
    if (absl::Status s = CheckChannel(spec); !s.ok()) return s;
  } else if (spec.nbytes == 0 || spec.nbytes > kMaxBytes) {
    return absl::InvalidArgumentError(StrCat("nbytes: is ", spec.nbytes, "; allowed are 1 to ", kMaxBytes));
  }
  return spec;
}

absl::StatusOr<std::unique_ptr<MutableMemory>> MutableMemory::Create(Store* store, int bell_fd) {
  std::unique_ptr<MutableMemory> memory(new MutableMemory(store));
  if (bell_fd < 0) {
    memory->own_bell_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!memory->own_bell_) return ErrnoStatus(errno, "channels: eventfd");
    bell_fd = memory->own_bell_.get();
  }
  memory->bell_fd_ = bell_fd;
  if (absl::Status s = memory->Recover(); !s.ok()) return s;
  return memory;
}

absl::StatusOr<MutableMemory::Opened> MutableMemory::Open(uint64_t session, uint64_t opened, const MutableSpec& spec) {
  const Holder holder{session, opened};
  {
    std::lock_guard lock(mutex_);
    Item* const item = FindNamed(spec);
    if (item != nullptr && item->is_mirror && spec.create) {
      Close(*item);
      if (on_mirror_over_) on_mirror_over_();
    } else if (item != nullptr) {
      return OpenKnown(*item, holder, spec);
    } else if (!spec.create) {
      return absl::NotFoundError(StrCat("no ", Word(spec.kind), " \"", spec.name, "\" on this host",
                                        spec.kind == MutableKind::kRegion ? " (processes of other hosts cannot share one)" : ""));
    }
    if (items_.size() >= kMaxMutable) {
      return absl::ResourceExhaustedError(StrCat("the node has ", items_.size(), " channels and regions, the most that it may; close some"));
    }
  }
  if (absl::Status s = Make(holder, spec); !s.ok()) return s;
  std::lock_guard lock(mutex_);
  Item* item = FindNamed(spec);
  if (item == nullptr) return absl::UnavailableError("the session has ended");
  return Answer(*item, /*made=*/true);
}

absl::StatusOr<MutableMemory::Opened> MutableMemory::OpenKnown(Item& item, const Holder& holder, const MutableSpec& spec) {
  const bool again = std::any_of(item.holders.begin(), item.holders.end(), [&](const Holder& known) {
    return known.session == holder.session && known.opened == holder.opened;  // asked before, of a node that died before it answered
  });
  if (again) return Answer(item, /*made=*/false);
  if (spec.kind == MutableKind::kChannel) {
    if (spec.create) return SecondWriter(item);
    if (item.entry == nullptr) return absl::NotFoundError(StrCat("channel \"", spec.name, "\": its writer is about to open it"));
    if (item.is_mirror && layout::ChannelHeaderAt(item.shared.address)->away.load() != 0) {
      return absl::UnavailableError(StrCat("channel \"", spec.name, "\": its node, ", item.home, ", is not heard"));
    }
  } else if (spec.exclusive) {
    return absl::AlreadyExistsError(StrCat("region \"", spec.name, "\": it exists (", item.spec.nbytes, " bytes), and was to be made"));
  } else if (spec.nbytes != 0 && spec.nbytes != item.spec.nbytes) {
    return absl::InvalidArgumentError(StrCat("nbytes: is ", spec.nbytes, ", but the region \"", spec.name, "\" has ", item.spec.nbytes,
                                             " bytes; leave nbytes out to open it as it is, or delete it first"));
  }
  if (store_->FindSession(holder.session) == nullptr) return absl::UnavailableError("the session has ended");
  if (absl::Status s = AddHolder(item, holder); !s.ok()) return s;
  return Answer(item, /*made=*/false);
}

absl::Status MutableMemory::SecondWriter(const Item& item) const {
  const std::shared_ptr<Session> writer = store_->FindSession(item.writer.session);
  return absl::AlreadyExistsError(StrCat(
      "channel \"", item.spec.name, "\": is being written (", Geometry(item.spec), ") by session ", item.writer.session,
      writer == nullptr ? std::string() : StrCat(", pid ", writer->peer.pid),
      "; a channel has one writer: close that one first, or take another name"));
}

// Without the lock while the memory is made.
absl::Status MutableMemory::Make(const Holder& holder, const MutableSpec& spec) {
  const uint64_t bytes = SegmentBytes(spec);
  const layout::SegmentKind kind = SegmentKindOf(spec.kind);
  if (absl::Status s = store_->ReserveMutable(holder.session, kind, bytes); !s.ok()) return s;
  absl::StatusOr<SharedSegment> made = store_->segments().CreateUnsealed({.kind = kind, .bytes = bytes, .huge_pages = false, .populate = true});
  if (!made.ok()) {
    store_->ReleaseMutable(kind, bytes);
    return made.status();
  }
  if (made->bytes != bytes || (spec.kind == MutableKind::kRegion && !SealTheSeals(store_->segments(), made->id))) {
    store_->segments().Drop(made->id);
    store_->ReleaseMutable(kind, bytes);
    return absl::InternalError(StrCat("asked for ", bytes, " bytes, got ", made->bytes, ", or its seals could not be set"));
  }
  PENSTOCK_FAULT_POINT("node.mutable.made");
  std::lock_guard lock(mutex_);
  const bool known = FindNamed(spec) != nullptr;
  if (known || store_->FindSession(holder.session) == nullptr) {
    store_->segments().Drop(made->id);
    store_->ReleaseMutable(kind, bytes);
    return known ? absl::AlreadyExistsError(StrCat(Word(spec.kind), " \"", spec.name, "\": somebody else has just made it"))
                 : absl::UnavailableError("the session has ended");
  }
  Item& item = items_[made->id];
  item.spec = spec;
  item.shared = *made;
  names_[{spec.kind, spec.name}] = made->id;
  item.holders.push_back(holder);
  if (spec.kind == MutableKind::kChannel) {
    item.writer = holder;
    item.incarnation = NewIncarnation();
    return absl::OkStatus();
  }
  const absl::Status entered = Enter(item);
  if (!entered.ok()) {
    item.holders.clear();
    Unname(item);
    DropIfUnused(made->id);
  }
  return entered;
}

// From here on a node process that takes over knows it, and others can open it.
absl::Status MutableMemory::Enter(Item& item) {
  absl::StatusOr<BookEntry*> taken = book_.Take();
  if (!taken.ok()) return taken.status();
  BookEntry* entry = *taken;
  entry->segment = item.shared.id;
  entry->kind = item.spec.kind;
  entry->slots = item.spec.slots;
  entry->nbytes = item.spec.nbytes;
  entry->writer = item.writer.session;
  entry->writer_opened = item.writer.opened;
  entry->incarnation = item.incarnation;
  entry->is_mirror = item.is_mirror ? 1 : 0;
  entry->dtype = static_cast<uint8_t>(item.spec.dtype);
  entry->rank = static_cast<uint8_t>(item.spec.shape.rank());
  std::copy(item.spec.shape.dims().begin(), item.spec.shape.dims().end(), entry->shape);
  entry->name_bytes = static_cast<uint16_t>(item.spec.name.size());
  std::memcpy(entry->name, item.spec.name.data(), item.spec.name.size());
  item.entry = entry;
  std::vector<Holder> holders = std::exchange(item.holders, {});
  for (const Holder& holder : holders) (void)AddHolder(item, holder);
  entry->state.store(static_cast<uint32_t>(BookState::kNamed));
  Announce();
  return absl::OkStatus();
}

absl::Status MutableMemory::Mapped(uint64_t session, uint32_t segment, uint64_t opened) {
  std::lock_guard lock(mutex_);
  const auto it = items_.find(segment);
  if (it == items_.end() || it->second.writer.session != session || it->second.writer.opened != opened) {
    return absl::NotFoundError(StrCat("segment ", segment, ": not a channel that this session is opening"));
  }
  Item& item = it->second;
  if (item.entry != nullptr) return absl::OkStatus();  // asked again after the node was replaced
  if (absl::Status s = store_->segments().Seal(segment); !s.ok()) return s;
  item.shared.sealed = true;
  // Before the seal the client could have punched holes.
  if (madvise(item.shared.address, item.shared.bytes, MADV_POPULATE_WRITE) != 0) {
    return absl::ResourceExhaustedError(StrCat("channel \"", item.spec.name, "\": its memory could not be populated"));
  }
  PENSTOCK_FAULT_POINT("node.mutable.sealed");
  return Enter(item);
}

void MutableMemory::Closed(uint64_t session, const layout::MutableMessage& message) {
  std::lock_guard lock(mutex_);
  const auto it = items_.find(message.segment);
  if (it == items_.end()) return;
  Item& item = it->second;
  for (size_t i = 0; i < item.holders.size(); ++i) {
    if (item.holders[i].session != session || item.holders[i].opened != message.opened) continue;
    if (item.writer.session == session && item.writer.opened == message.opened) Close(item);
    if ((message.flags & layout::kMutableStillMapped) == 0) RemoveHolder(item, i);
    break;
  }
  DropIfUnused(message.segment);
}

absl::StatusOr<bool> MutableMemory::Delete(const MutableSpec& spec) {
  if (spec.kind != MutableKind::kRegion) return absl::InvalidArgumentError("delete: a channel ends when its writer closes it");
  std::lock_guard lock(mutex_);
  Item* item = FindNamed(spec);
  if (item == nullptr) return false;
  static_cast<layout::RegionHeader*>(item->shared.address)->deleted.store(1);
  Unname(*item);
  DropIfUnused(item->shared.id);
  return true;
}

void MutableMemory::SessionEnded(uint64_t session) {
  std::lock_guard lock(mutex_);
  std::vector<uint32_t> touched;
  for (auto& [segment, item] : items_) {
    bool held = false;
    for (size_t i = 0; i < item.holders.size(); ++i) {
      if (item.holders[i].session != session) continue;
      RemoveHolder(item, i);
      held = true;
    }
    if (!held) continue;
    touched.push_back(segment);
    if (item.writer.session == session) Close(item);
    if (item.spec.kind == MutableKind::kRegion) {
      ClearHolds(static_cast<layout::RegionHeader*>(item.shared.address), [session](uint64_t id) { return id == session; });
    }
  }
  for (uint32_t segment : touched) DropIfUnused(segment);
}

MutableMemory::Item* MutableMemory::FindNamed(const MutableSpec& spec) {
  const auto it = names_.find({spec.kind, spec.name});
  return it == names_.end() ? nullptr : &items_.at(it->second);
}

absl::StatusOr<MutableMemory::Opened> MutableMemory::Answer(const Item& item, bool made) const {
  Opened opened;
  SharedSegment info;
  opened.fd = store_->segments().Descriptor(item.shared.id, &info);
  if (!opened.fd) return absl::ResourceExhaustedError("no descriptor left for the memory");
  layout::MutableReply& reply = opened.reply;
  reply.kind = item.spec.kind;
  reply.segment = item.shared.id;
  reply.bytes = item.shared.bytes;
  reply.nbytes = item.spec.nbytes;
  reply.slots = item.spec.slots;
  reply.dtype = static_cast<uint8_t>(item.spec.dtype);
  reply.rank = static_cast<uint8_t>(item.spec.shape.rank());
  reply.made = made;
  std::copy(item.spec.shape.dims().begin(), item.spec.shape.dims().end(), reply.shape);
  item.home.copy(reply.home, sizeof(reply.home) - 1);
  return opened;
}

absl::Status MutableMemory::AddHolder(Item& item, const Holder& holder) {
  auto place = std::find_if(item.holders.begin(), item.holders.end(), [](const Holder& h) { return h.session == 0; });
  if (place == item.holders.end()) {
    if (item.holders.size() >= kMaxHolders) {
      return absl::ResourceExhaustedError(StrCat("\"", item.spec.name, "\" is open ", item.holders.size(), " times, the most that it may; close some"));
    }
    place = item.holders.insert(item.holders.end(), Holder{});
  }
  *place = holder;
  const auto index = static_cast<size_t>(place - item.holders.begin());
  if (item.entry == nullptr) return absl::OkStatus();
  if (index >= kBookHolders) {
    item.entry->more_holders.store(1);
  } else {
    item.entry->holders[index].opened = holder.opened;
    item.entry->holders[index].session.store(holder.session);
  }
  return absl::OkStatus();
}

void MutableMemory::RemoveHolder(Item& item, size_t place) {
  item.holders[place] = {};
  if (item.entry != nullptr && place < kBookHolders) item.entry->holders[place].session.store(0);
}

void MutableMemory::Unname(Item& item) {
  if (!item.named) return;
  item.named = false;
  names_.erase({item.spec.kind, item.spec.name});
  if (item.entry != nullptr) item.entry->state.store(static_cast<uint32_t>(BookState::kUnnamed));
}

void MutableMemory::Close(Item& item) {
  item.writer = {};
  Unname(item);
  layout::ChannelHeader* header = layout::ChannelHeaderAt(item.shared.address);
  header->closed.store(1);
  header->turns.fetch_add(1);
  FutexWake(&header->turns);
  RingBell(*header);
}

void MutableMemory::DropIfUnused(uint32_t segment) {
  const auto it = items_.find(segment);
  if (it == items_.end()) return;
  Item& item = it->second;
  if (item.is_mirror && !HasReaders(item) && on_mirror_over_) on_mirror_over_();
  if (std::any_of(item.holders.begin(), item.holders.end(), [](const Holder& h) { return h.session != 0; })) return;
  Unname(item);
  if (item.entry != nullptr) book_.Give(item.entry);
  const layout::SegmentKind kind = SegmentKindOf(item.spec.kind);
  const uint64_t bytes = item.shared.bytes;
  items_.erase(it);
  store_->segments().Drop(segment);
  store_->ReleaseMutable(kind, bytes);
}

void MutableMemory::Announce() {
  store_->header()->mutable_turns.fetch_add(1);
  FutexWake(&store_->header()->mutable_turns);
}

}  // namespace penstock::server
