#include "client/session/segment_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "proto/strcat.h"
#include "transport/fault_point.h"
#include "transport/sys_error.h"

namespace penstock::client {
namespace {

using layout::FdType;
using layout::SegmentKind;
using layout::SegmentMessage;

constexpr uint64_t kPopulateSlice = uint64_t{16} << 20;
constexpr uint64_t kPage = 4096;

// Address space that costs nothing until it is touched. A process that cannot have it is lost.
void* ReserveZeroed(uint64_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

PageKind PageKindOf(const SegmentMessage& message) {
  if (message.page_kind == 1) return PageKind::kTransparentHuge;
  if (message.page_kind == 2) return PageKind::kHugetlb;
  return PageKind::kSmall;
}

// The node is trusted with its memory; this guards against taking one descriptor for another.
absl::Status CheckDescriptor(const SegmentMessage& message, int fd) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return SysError(errno, "fstat of a segment");
  const int seals = fcntl(fd, F_GET_SEALS);
  if (static_cast<uint64_t>(st.st_size) < message.bytes || message.bytes == 0 || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0) {
    return absl::InternalError(StrCat("segment ", message.segment, ": the node's descriptor has ",
                                      st.st_size, " bytes and seals ", seals, "; expected ",
                                      message.bytes, " bytes that cannot shrink"));
  }
  return absl::OkStatus();
}

// The whole pages inside [offset, offset + bytes).
std::pair<uint64_t, uint64_t> WholePages(uint64_t offset, uint64_t bytes) {
  const uint64_t first = (offset + kPage - 1) / kPage * kPage;
  const uint64_t last = (offset + bytes) / kPage * kPage;
  return {first, last > first ? last - first : 0};
}

}  // namespace

SegmentMap::SegmentMap(FdChannel* channel)
    : channel_(channel),
      top_(static_cast<std::atomic<Leaf*>*>(ReserveZeroed(sizeof(void*) << kLeafBits))) {}

SegmentMap::~SegmentMap() {
  if (top_ == nullptr) return;
  // Ids are given out from 1 on without gaps of note, so the first unused leaf ends the list.
  for (uint32_t i = 0; i < (1u << kLeafBits); ++i) {
    Leaf* leaf = top_[i].load();
    if (leaf == nullptr && i > 0) break;
    if (leaf != nullptr) munmap(leaf, sizeof(Leaf) * kLeafEntries);
  }
  munmap(top_, sizeof(void*) << kLeafBits);
}

SegmentMap::Leaf* SegmentMap::LeafOf(uint32_t segment) {
  std::atomic<Leaf*>& slot = top_[segment >> kLeafBits];
  Leaf* leaf = slot.load(std::memory_order_acquire);
  if (leaf == nullptr) {
    leaf = static_cast<Leaf*>(ReserveZeroed(sizeof(Leaf) * kLeafEntries));
    if (leaf != nullptr) slot.store(leaf, std::memory_order_release);
  }
  return leaf;
}

absl::StatusOr<FdReply> SegmentMap::GetSegment(uint32_t segment, const Deadline& deadline) {
  SegmentMessage request{};
  request.segment = segment;
  absl::StatusOr<FdReply> reply = channel_->Call(request, FdType::kGetSegment, {}, deadline);
  if (!reply.ok()) return reply;
  const auto message = reply->As<SegmentMessage>(FdType::kSegmentReply, 1);
  if (!message.ok()) return message.status();
  return reply;
}

absl::StatusOr<const std::byte*> SegmentMap::Map(uint32_t segment, const Deadline& deadline,
                                                 uint64_t* bytes) {
  if (const std::byte* address = Address(segment); address != nullptr) {
    if (bytes != nullptr) {
      std::lock_guard<std::mutex> lock(mutex_);
      *bytes = segments_[segment].readable.size();
    }
    return address;
  }
  absl::StatusOr<FdReply> reply = GetSegment(segment, deadline);
  if (!reply.ok()) return reply.status();
  const auto message = reply->As<SegmentMessage>(FdType::kSegmentReply, 1);
  absl::StatusOr<std::byte*> address = Install(**message, reply->fds[0].get(), bytes);
  if (!address.ok()) return address.status();
  return *address;
}

absl::StatusOr<std::byte*> SegmentMap::Install(const SegmentMessage& message, int fd,
                                               uint64_t* bytes) {
  if (absl::Status s = CheckDescriptor(message, fd); !s.ok()) return s;
  std::lock_guard<std::mutex> lock(mutex_);
  Leaf* leaf = top_ == nullptr ? nullptr : LeafOf(message.segment);
  if (leaf == nullptr) return absl::ResourceExhaustedError("no address space for the segment map");
  Segment& segment = segments_[message.segment];
  if (!segment.readable) {
    absl::StatusOr<Mapping> map = Mapping::MapReadOnly(fd, message.bytes, PageKindOf(message));
    if (!map.ok()) return map.status();
    segment.readable = *std::move(map);
    segment.kind = message.kind;
    leaf[message.segment & (kLeafEntries - 1)].store(
        reinterpret_cast<std::byte*>(segment.readable.data()), std::memory_order_release);
  }
  if (bytes != nullptr) *bytes = segment.readable.size();
  return reinterpret_cast<std::byte*>(segment.readable.data());
}

absl::StatusOr<uint32_t> SegmentMap::OpenExtent(uint64_t bytes, const Deadline& deadline) {
  SegmentMessage request{};
  request.kind = SegmentKind::kExtent;
  request.bytes = bytes;
  absl::StatusOr<FdReply> reply = channel_->Call(request, FdType::kOpenExtent, {}, deadline);
  if (!reply.ok()) return reply.status();
  const auto message = reply->As<SegmentMessage>(FdType::kSegmentReply, 1);
  if (!message.ok()) return message.status();
  const SegmentMessage extent = **message;
  const int fd = reply->fds[0].get();
  if (absl::Status s = CheckDescriptor(extent, fd); !s.ok()) return s;
  absl::StatusOr<Mapping> writable = Mapping::MapWritable(fd, extent.bytes, PageKindOf(extent));
  if (!writable.ok()) return writable.status();
  if (absl::Status s = writable->DontFork(); !s.ok()) return s;
  // The pages exist since the node populated them; this enters them into our page table at once.
  (void)writable->Populate(/*write=*/true, 0, extent.bytes);
  PENSTOCK_FAULT_POINT("client.extent.mapped");

  // Known before the node is told: from then on any thread may be given a block of it.
  {
    std::lock_guard<std::mutex> lock(mutex_);
    segments_[extent.segment].writable = *std::move(writable);
  }
  SegmentMessage mapped = extent;
  absl::StatusOr<FdReply> done = channel_->Call(mapped, FdType::kExtentMapped, {}, deadline);
  absl::Status status = done.status();
  if (status.ok()) status = done->As<layout::DoneMessage>(FdType::kDone, 0).status();
  if (!status.ok()) {
    // Refused: the node does not have it, so nobody got a block of it. Without an answer somebody may
    // have one: then it stays mapped.
    if (done.ok()) Drop(extent.segment);
    return status;
  }
  PENSTOCK_FAULT_POINT("client.extent.sealed");
  if (const auto address = Install(extent, fd, nullptr); !address.ok()) return address.status();
  return extent.segment;
}

absl::StatusOr<std::byte*> SegmentMap::WritableBlock(uint32_t segment, uint64_t offset,
                                                     uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = segments_.find(segment);
  if (it == segments_.end() || !it->second.writable || offset > it->second.writable.size() ||
      bytes > it->second.writable.size() - offset) {
    return absl::InternalError(StrCat("the node reserved ", bytes, " bytes at ", offset,
                                      " of segment ", segment,
                                      ", which is no extent of this session"));
  }
  Segment& extent = it->second;
  const uint64_t first = offset / kPage * kPage;
  const uint64_t last = std::min((offset + bytes + kPage - 1) / kPage * kPage,
                                 extent.writable.size());
  if (absl::Status s = extent.guard.Unprotect(extent.writable, first, last - first); !s.ok()) {
    return s;
  }
  return reinterpret_cast<std::byte*>(extent.writable.data()) + offset;
}

void SegmentMap::WriteProtect(uint32_t segment, uint64_t offset, uint64_t bytes) {
  const auto [first, length] = WholePages(offset, bytes);
  if (length == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = segments_.find(segment);
  if (it == segments_.end() || !it->second.writable) return;
  it->second.guard.Protect(it->second.writable, first, length);
}

absl::StatusOr<std::byte*> SegmentMap::Private(uint32_t segment, uint64_t offset, uint64_t bytes,
                                               const Deadline& deadline) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Segment& known = segments_[segment];
    if (known.copy_on_write) {
      ++known.private_users[offset];
      return reinterpret_cast<std::byte*>(known.copy_on_write.data()) + offset;
    }
  }
  absl::StatusOr<FdReply> reply = GetSegment(segment, deadline);
  if (!reply.ok()) return reply.status();
  const SegmentMessage message = **reply->As<SegmentMessage>(FdType::kSegmentReply, 1);
  const int fd = reply->fds[0].get();
  if (absl::Status s = CheckDescriptor(message, fd); !s.ok()) return s;
  absl::StatusOr<Mapping> map = Mapping::MapPrivate(fd, message.bytes, PageKindOf(message));
  if (!map.ok()) return map.status();
  std::lock_guard<std::mutex> lock(mutex_);
  Segment& known = segments_[segment];
  if (!known.copy_on_write) known.copy_on_write = *std::move(map);
  ++known.private_users[offset];
  return reinterpret_cast<std::byte*>(known.copy_on_write.data()) + offset;
}

void SegmentMap::DropPrivate(uint32_t segment, uint64_t offset, uint64_t bytes) {
  const auto [first, length] = WholePages(offset, (bytes + kPage - 1) / kPage * kPage);
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = segments_.find(segment);
  if (it == segments_.end()) return;
  const auto users = it->second.private_users.find(offset);
  if (users == it->second.private_users.end() || --users->second > 0) return;
  it->second.private_users.erase(users);
  (void)it->second.copy_on_write.DropPrivatePages(first, length);
}

void SegmentMap::OnNotice(FdReply notice) {
  if (notice.size != sizeof(SegmentMessage)) return;
  const auto& message = *reinterpret_cast<const SegmentMessage*>(notice.bytes.data());
  if (message.header.type == FdType::kNewSegment && notice.fds.size() == 1) {
    if (!Install(message, notice.fds[0].get(), nullptr).ok()) return;  // a hint; a get asks itself
    std::lock_guard<std::mutex> lock(mutex_);
    populate_.push_back({message.segment, 0});
  } else if (message.header.type == FdType::kDropSegment) {
    Drop(message.segment);
    PENSTOCK_FAULT_POINT("client.segment.unmapped");
    SegmentMessage answer{};
    answer.segment = message.segment;
    (void)channel_->Post(answer, FdType::kSegmentUnmapped);
  }
}

bool SegmentMap::Background() {
  // Only this thread unmaps, so the mapping stays while the lock is not held.
  const Mapping* mapping = nullptr;
  uint64_t offset = 0;
  uint64_t length = 0;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (populate_.empty()) return false;
    PopulateTask& task = populate_.front();
    const auto it = segments_.find(task.segment);
    if (it == segments_.end() || task.done_bytes >= it->second.readable.size()) {
      populate_.pop_front();
      return !populate_.empty();
    }
    mapping = &it->second.readable;
    offset = task.done_bytes;
    length = std::min(kPopulateSlice, mapping->size() - offset);
    task.done_bytes += length;
  }
  (void)mapping->Populate(/*write=*/false, offset, length);
  return true;
}

void SegmentMap::Drop(uint32_t segment) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = segments_.find(segment);
  if (it == segments_.end()) return;
  Leaf* leaf = top_[segment >> kLeafBits].load();
  if (leaf != nullptr) leaf[segment & (kLeafEntries - 1)].store(nullptr);
  Segment& gone = it->second;
  if (gone.readable &&
      (gone.kind == SegmentKind::kIndex || gone.kind == SegmentKind::kCatalogChunk)) {
    // A reader may be in the middle of it without a pin: give the memory back, keep the range.
    // Zeros are an empty index and records that are not live.
    mmap(gone.readable.data(), gone.readable.size(), PROT_READ,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    blanked_.push_back(std::move(gone.readable));
  }
  segments_.erase(it);
}

void SegmentMap::ChildReset() {
  for (auto& [id, segment] : segments_) {
    if (segment.writable) (void)segment.writable.Release();
    segment.guard.ChildReset();
  }
  populate_.clear();
}

void SegmentMap::MakeInaccessible() {
  for (auto& [id, segment] : segments_) {
    if (segment.kind != SegmentKind::kArena && segment.kind != SegmentKind::kExtent) continue;
    for (Mapping* mapping : {&segment.readable, &segment.copy_on_write}) {
      if (!*mapping) continue;
      mmap(mapping->data(), mapping->size(), PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    }
  }
}

}  // namespace penstock::client
