// Where blocks come from and go: arenas, extents, reclaiming, eviction.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "proto/errors.h"
#include "proto/sizes.h"
#include "proto/strcat.h"
#include "server/store/store.h"
#include "transport/fault_point.h"
#include "transport/monotonic.h"

namespace penstock::server {

using layout::Record;
using layout::RecordRef;

namespace {

// Enters the pages in this process's page table; they are allocated already (the warden's child did that).
void MapAhead(const SharedSegment& segment) { madvise(segment.address, segment.bytes, MADV_POPULATE_WRITE); }

constexpr absl::Duration kUsesEvery = absl::Milliseconds(100);
constexpr absl::Duration kUsesAtLeastEvery = absl::Seconds(1);  // while nothing else happens

const char* PageKindText(uint32_t page_kind) {
  return page_kind == 2 ? "hugetlb 2MiB" : page_kind == 1 ? "transparent 2MiB" : "4KiB";
}

}  // namespace

// Class keep that cannot be spilled, and what is not published.
uint64_t Store::UnmovableBytes() const {
  const uint64_t spilled = spill_ == nullptr ? 0 : spill_->bytes;
  return tensor_bytes_ - spilled - cache_bytes_ - MovableBytes() + draft_bytes_ + withheld_bytes_ - LeavingBytes(/*aside_only=*/true);
}

absl::StatusOr<Placed> Store::FindBlock(const BlockWish& wish) {
  auto allocate = [&]() -> std::optional<Block> {
    return wish.in_arena ? blocks_.AllocateInArena(wish.nbytes) : blocks_.AllocateInExtent(wish.session, wish.nbytes);
  };
  const auto full = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return Full(StrCat(wish.why, " '", wish.name, "'"), wish.nbytes); };
  std::optional<Block> block = allocate();
  if (!block && !retired_.empty()) {
    Reclaim();
    block = allocate();
  }
  if (block) return Placed{.kind = Placed::Kind::kPlaced, .block = *block};
  // A new segment, from what is unreserved, else from empty segments, else from what the cache class holds, else from what can
  // go to the spill directory.
  for (int round = 0;; ++round) {
    if (wish.in_arena) {
      if (!arena_failure_.ok()) return std::exchange(arena_failure_, absl::OkStatus());
      if (arena_on_its_way_ || StartArena(wish.nbytes)) return Placed{.kind = Placed::Kind::kWait};
    } else {
      const uint64_t bytes = blocks_.NextExtentBytes(wish.nbytes, blocks_.ExtentBytesOf(wish.session));
      if (bytes <= blocks_.unreserved_bytes()) return Placed{.kind = Placed::Kind::kNeedExtent, .need_extent_bytes = bytes};
    }
    if (GiveBackEmptySegments(/*keep_arena_bytes=*/0, /*of_live_sessions=*/true)) continue;
    if (blocks_.leaving_bytes() > 0 || arena_on_its_way_) return Placed{.kind = Placed::Kind::kWait};
    // What would not fit beside what cannot be evicted costs nobody a tensor.
    if (spill_ != nullptr && spill_->leaving_bytes > 0) return Placed{.kind = Placed::Kind::kWait};
    if (UnmovableBytes() + wish.nbytes > limits_.memory_bytes) return full();
    bool leased = false;
    if (round > 1000 || Evict(std::max<uint64_t>(wish.nbytes, 1), &leased) == 0) {
      if (SpillSome(wish.nbytes)) return Placed{.kind = Placed::Kind::kWait};
      if (!leased) return full();
      waits_for_leases_ = true;
      return Placed{.kind = Placed::Kind::kWait};
    }
    if ((block = allocate())) return Placed{.kind = Placed::Kind::kPlaced, .block = *block};
  }
}

bool Store::MakesRoom() const {
  std::lock_guard lock(mutex_);
  return arena_on_its_way_ || (spill_ != nullptr && spill_->leaving_bytes > 0);
}

bool Store::StartArena(uint64_t nbytes) {
  const uint64_t bytes = blocks_.NextArenaBytes(nbytes);
  if (bytes == 0 || bytes < BlockAllocator::BlockSize(nbytes) || !blocks_.ReserveBudget(bytes)) return false;
  arena_on_its_way_ = true;
  work_.Add([this, bytes] { MakeArena(bytes); });
  return true;
}

void Store::MakeArena(uint64_t bytes) {
  absl::StatusOr<SharedSegment> made = shared_.CreateSealed(
      {.kind = layout::SegmentKind::kArena, .bytes = bytes, .huge_pages = limits_.huge_pages, .populate = true});
  if (made.ok()) MapAhead(*made);
  std::lock_guard lock(mutex_);
  arena_on_its_way_ = false;
  if (made.ok()) {
    blocks_.CancelReservation(bytes);
    blocks_.Add(*made, /*owner=*/0);
    page_kind_ = PageKindText(made->page_kind);
  } else {
    blocks_.CancelReservation(bytes);
    arena_failure_ = made.status();
    LogLocked(v1::Event::WARNING, StrCat("arena of ", FormatSize(bytes), ": ", std::string(made.status().message())));
  }
  Changed();
}

void Store::Reclaim() {
  retired_.Scan(SessionList(), held_, [this](const RetiredRecords::Entry& entry) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    PENSTOCK_FAULT_POINT("node.reclaim.free");
    FreeRecord(entry.record);
  });
}

// Coldest first, until `nbytes` are retired and reclaimed; what is pinned stays, for it would give nothing. Returns what came free, and
// whether others may serve some of the rest, or the cluster's directory was asked to let it go.
uint64_t Store::Evict(uint64_t nbytes, bool* leased) {
  const uint64_t before = blocks_.block_bytes();
  uint64_t leaving = LeavingBytes(/*aside_only=*/false);
  *leased = leaving > 0;
  uint64_t retired = 0;
  for (const absl::Duration since : {absl::Milliseconds(20), absl::ZeroDuration()}) {
    if (cache_order_.count() == 0) return 0;
    NoteUses(since);
    retired = EvictColdest(nbytes, &leaving, leased);
    if (retired > 0 || *leased) break;
  }
  if (retired == 0) return 0;
  Reclaim();
  // What was pinned meanwhile comes free later; it was progress all the same.
  return std::max<uint64_t>(before - blocks_.block_bytes(), 1);
}

uint64_t Store::EvictColdest(uint64_t nbytes, uint64_t* leaving, bool* leased) {
  uint64_t retired = 0;
  EvictionOrder::Walk walk = cache_order_.Begin();
  while (retired + *leaving < nbytes) {
    const RecordRef ref = cache_order_.Next(&walk);
    if (ref == 0) break;
    const Record* record = slabs_->At(ref);
    if (IsPinned(ref)) {
      cache_order_.Pass(ref);
    } else if (record->cluster_state != 0) {
      if (!asked_.contains(ref)) *leaving += std::max<uint64_t>(record->nbytes, 1);
      Ask(ref, Wish::kEvict);
      *leased = true;
      cache_order_.Pass(ref);
    } else if (!CheckLeases(NameOf(record), LeaseRule::kRespect).ok()) {  // for a second at most, unless it is asked for again
      *leased = true;
      cache_order_.Pass(ref);
    } else {
      retired += std::max<uint64_t>(record->nbytes, 1);
      cache_order_.Evict(ref);
      Remove(ref, v1::Event::EVICT);
      ++evictions_;
    }
  }
  return retired;
}

bool Store::GiveBackEmptySegments(uint64_t keep_arena_bytes, bool of_live_sessions) {
  const uint64_t before = blocks_.unreserved_bytes();
  for (uint32_t segment : blocks_.EmptySegments(keep_arena_bytes, of_live_sessions)) {
    Notify(segment, blocks_.Leave(segment), /*drop=*/true);
  }
  return blocks_.unreserved_bytes() > before;
}

void Store::Notify(uint32_t segment, const std::vector<uint64_t>& ids, bool drop) {
  if (!on_segment_notice_) return;
  SegmentNotice notice{.sessions = {}, .segment = segment, .drop = drop};
  for (uint64_t id : ids) {
    if (auto it = sessions_.find(id); it != sessions_.end()) notice.sessions.push_back(it->second);
  }
  if (notice.sessions.empty()) return;
  work_.Add([callback = on_segment_notice_, notice = std::move(notice)] { callback(notice); });
}

absl::Status Store::Full(std::string_view what, uint64_t nbytes) {
  uint64_t pinned_sessions = 0;
  for (const auto& [id, other] : sessions_) pinned_sessions += other->CountPins() > 0;
  std::string spilled;
  if (spill_ != nullptr) {
    spilled = StrCat(FormatSize(spill_->bytes), " in ", spill_->count, " tensors in the spill directory, which may take ",
                     FormatSize(spill_->limit_bytes), MonotonicNow() < spill_->full_until ? " (its file system is full)" : "", ", ");
  }
  return absl::ResourceExhaustedError(StrCat(
      what, ": the store is full: ", FormatSize(nbytes), " asked for, ", FormatSize(limits_.memory_bytes), " in all, of which ",
      FormatSize(tensor_bytes_ - (spill_ == nullptr ? 0 : spill_->bytes)), " in ", names_->size() - (spill_ == nullptr ? 0 : spill_->count), " tensors (",
      FormatSize(cache_bytes_), " evictable), ", spilled, FormatSize(draft_bytes_), " in ", drafts_, " drafts, ", FormatSize(retired_.bytes()),
      " deleted but pinned by ", pinned_sessions, " sessions, ", FormatSize(channels_.bytes + regions_.bytes), " in channels and regions, ",
      FormatSize(blocks_.leaving_bytes()), " waiting for sessions to unmap;", Holders(),
      " delete tensors, release views (penstock pins), or start the node with more --memory", spill_ == nullptr ? " or a --spill_dir" : ""));
}

// The three that hold most, as a clause.
std::string Store::Holders() const {
  struct Holding {
    const Session* session;
    uint64_t pinned, extents;
    uint64_t sum() const { return pinned + extents; }
  };
  std::vector<Holding> holdings;
  for (const auto& [id, session] : sessions_) holdings.push_back({session.get(), PinnedBytesOf(*session), blocks_.ExtentBytesOf(id)});
  std::sort(holdings.begin(), holdings.end(), [](const Holding& a, const Holding& b) { return a.sum() > b.sum(); });
  std::string text;
  for (const Holding& one : absl::MakeConstSpan(holdings).subspan(0, 3)) {
    if (one.sum() == 0) break;
    const SessionPeer& peer = one.session->peer;
    const std::string label(peer.label, strnlen(peer.label, sizeof(peer.label)));
    StrAppend(&text, text.empty() ? " most is held by " : ", ", "session ", one.session->id, " (pid ", peer.pid, label.empty() ? "" : ", ", label, "): ",
              FormatSize(one.pinned), " pinned, ", FormatSize(one.extents), " in extents");
  }
  return text.empty() ? text : text + ";";
}

uint64_t Store::PinnedBytesOf(const Session& session) const {
  absl::flat_hash_set<uint64_t> pinned;
  uint64_t bytes = 0;
  session.ForEachPin([&](uint64_t pin) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    const RecordRef ref = static_cast<RecordRef>(pin >> 32);
    if (!slabs_->IsSlot(ref) || !pinned.insert(pin).second) return;
    const Record* record = slabs_->At(ref);
    const auto seq = static_cast<uint32_t>(record->seq.load());
    if (seq == static_cast<uint32_t>(pin) || seq == static_cast<uint32_t>(pin) + 1) bytes += record->nbytes;
  });
  return bytes;
}

absl::StatusOr<SharedSegment> Store::MakeExtent(uint64_t session, uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    auto it = sessions_.find(session);
    if (it == sessions_.end()) return absl::UnavailableError("the session has ended");
    if (bytes == 0 || bytes % 4096 != 0 || bytes > limits_.memory_bytes) {
      return absl::InvalidArgumentError(StrCat("extent bytes: ", bytes, " must be a multiple of 4096, at most ", limits_.memory_bytes));
    }
    if (!blocks_.ReserveBudget(bytes)) {
      // Somebody else has taken what Reserve saw: it is asked again, and waits or says who holds what.
      if (!GiveBackEmptySegments(0, true) || !blocks_.ReserveBudget(bytes)) return absl::NotFoundError(StrCat("open extent: ", FormatSize(bytes), " are not free any more"));
    }
  }
  absl::StatusOr<SharedSegment> made = shared_.CreateUnsealed(
      {.kind = layout::SegmentKind::kExtent, .bytes = bytes, .huge_pages = limits_.huge_pages, .populate = true});
  std::lock_guard lock(mutex_);
  if (!made.ok()) {
    blocks_.CancelReservation(bytes);
    return made;
  }
  if (!sessions_.contains(session)) {
    blocks_.CancelReservation(bytes);
    shared_.Drop(made->id);
    return absl::UnavailableError("the session has ended");
  }
  opening_extents_[made->id] = {session, *made, bytes};
  return made;
}

absl::Status Store::SealExtent(uint64_t session, uint32_t segment) {
  OpeningExtent opening;
  {
    std::lock_guard lock(mutex_);
    auto it = opening_extents_.find(segment);
    if (it == opening_extents_.end() || it->second.session != session) {
      // Asked again after a node restart: sealed before, perhaps with drafts in it.
      const DataSegment* sealed = blocks_.Find(segment);
      if (sealed != nullptr && !sealed->arena && sealed->holders.contains(session)) return absl::OkStatus();
      return absl::NotFoundError(StrCat("extent ", segment, ": not one that this session is opening"));
    }
    opening = it->second;
    opening_extents_.erase(it);
  }
  // Populated again after the seal: before it the client could have punched holes.
  const absl::Status sealed = shared_.Seal(segment);
  if (sealed.ok()) MapAhead(opening.shared);
  std::lock_guard lock(mutex_);
  blocks_.CancelReservation(opening.reserved_bytes);
  if (!sealed.ok() || !sessions_.contains(session)) {
    shared_.Drop(segment);
    return sealed.ok() ? absl::UnavailableError("the session has ended") : sealed;
  }
  opening.shared.sealed = true;
  DataSegment* extent = blocks_.Add(opening.shared, session);
  extent->holders.insert(session);
  std::vector<uint64_t> readers{session};
  for (const auto& [id, data] : blocks_.segments()) {
    for (uint64_t holder : data->holders) {
      if (data->owner != holder) readers.push_back(holder);
    }
  }
  std::sort(readers.begin(), readers.end());
  readers.erase(std::unique(readers.begin(), readers.end()), readers.end());
  Notify(segment, readers, /*drop=*/false);
  Changed();
  return absl::OkStatus();
}

UniqueFd Store::SegmentDescriptor(uint64_t session, uint32_t segment, SharedSegment* info) {
  std::lock_guard lock(mutex_);
  UniqueFd fd = shared_.Descriptor(segment, info);
  if (!fd || !info->sealed || !sessions_.contains(session)) return UniqueFd();
  if (info->kind == layout::SegmentKind::kMutableBook || info->kind == layout::SegmentKind::kChannel || info->kind == layout::SegmentKind::kTableLog) {
    return UniqueFd();  // by name only, or not at all
  }
  if (info->kind == layout::SegmentKind::kArena || info->kind == layout::SegmentKind::kExtent) {
    DataSegment* data = blocks_.Find(segment);
    if (data == nullptr) return UniqueFd();  // on its way out
    data->holders.insert(session);
  }
  return fd;
}

UniqueFd Store::UnsealedDescriptor(uint64_t session, uint32_t segment) const {
  std::lock_guard lock(mutex_);
  auto it = opening_extents_.find(segment);
  if (it == opening_extents_.end() || it->second.session != session) return UniqueFd();
  SharedSegment info;
  return shared_.Descriptor(segment, &info);
}

void Store::SegmentUnmapped(uint64_t session, uint32_t segment) {
  std::lock_guard lock(mutex_);
  blocks_.HolderGone(segment, session);
  Changed();
}

absl::Duration Store::Maintain() {
  std::lock_guard lock(mutex_);
  const uint64_t now = absl::GetCurrentTimeNanos();
  while (!expiries_.empty() && expiries_.begin()->first <= now) {
    const RecordRef ref = expiries_.begin()->second;
    if (slabs_->At(ref)->cluster_state != 0) {
      expiries_.erase(expiries_.begin());
      Ask(ref, Wish::kExpire);
      continue;
    }
    Remove(ref, v1::Event::EXPIRE);
    ++expirations_;
  }
  const absl::Duration asked_again = AskAgain();
  if (!retired_.empty()) Reclaim();
  leases_.Sweep(MonotonicNow());
  const bool leases_are_waited_for = std::exchange(waits_for_leases_, false);
  if (leases_are_waited_for) Changed();
  // What the next large fetch would have to populate again (0.5 GB/s in small pages) is kept; extents take it when they need it.
  GiveBackEmptySegments(/*keep_arena_bytes=*/limits_.memory_bytes / 2, /*of_live_sessions=*/false);
  for (const auto& [segment, holders] : blocks_.Leaving()) Notify(segment, holders, /*drop=*/true);
  StartAdoption();
  const bool looks_for_uses = !sessions_.empty() && (cache_order_.count() > 0 || MovableBytes() > 0);
  if (looks_for_uses) NoteUses(kUsesEvery);
  const uint64_t arena = blocks_.policy().arena_bytes;
  if (!arena_on_its_way_ && blocks_.arena_free_bytes() < arena / 4 && blocks_.unreserved_bytes() >= 2 * arena) StartArena(arena / 2);
  if (!retired_.empty() || blocks_.leaving_bytes() > 0) return absl::Milliseconds(20);
  if (leases_are_waited_for) return absl::Milliseconds(100);
  const absl::Duration next = looks_for_uses ? std::min(asked_again, kUsesAtLeastEvery) : asked_again;
  if (expiries_.empty()) return next;
  return std::min(next, absl::Nanoseconds(static_cast<int64_t>(std::min<uint64_t>(expiries_.begin()->first - now, uint64_t{1} << 62))));
}

}  // namespace penstock::server
