#include "server/warden/segment_table.h"

#include <sys/mman.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace penstock::warden {
namespace {

constexpr uint64_t kMaxSegmentBytes = uint64_t{1} << 46;

absl::Status NoSuchSegment(const char* operation, uint32_t id) {
  return absl::NotFoundError(absl::StrCat(operation, ": there is no segment ", id));
}

}  // namespace

const char* SegmentKindName(layout::SegmentKind kind) {
  switch (kind) {
    case layout::SegmentKind::kCatalogHeader:
      return "catalog";
    case layout::SegmentKind::kCatalogChunk:
      return "records";
    case layout::SegmentKind::kIndex:
      return "index";
    case layout::SegmentKind::kArena:
      return "arena";
    case layout::SegmentKind::kExtent:
      return "extent";
    case layout::SegmentKind::kRing:
      return "ring";
    case layout::SegmentKind::kPins:
      return "pins";
    case layout::SegmentKind::kMutableBook:
      return "book";
    case layout::SegmentKind::kTableLog:
      return "tables";
    case layout::SegmentKind::kChannel:
      return "channel";
    case layout::SegmentKind::kRegion:
      return "region";
  }
  return "";
}

absl::StatusOr<const SegmentTable::Entry*> SegmentTable::Create(layout::SegmentKind kind,
                                                                uint64_t bytes, bool huge_pages,
                                                                bool ready) {
  const std::string kind_name = SegmentKindName(kind);
  if (kind_name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("create segment: kind ", static_cast<uint32_t>(kind), " is not in 1..10"));
  }
  if (bytes == 0 || bytes > kMaxSegmentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("create segment: bytes ", bytes, " is not in 1..", kMaxSegmentBytes));
  }
  if (last_id_ == UINT32_MAX) {
    return absl::ResourceExhaustedError("create segment: all 2^32 segment ids were used");
  }
  const bool huge = huge_pages && huge_ != PageKind::kSmall;
  MemfdOptions options;
  options.name = absl::StrCat("penstock-", kind_name, "-", last_id_ + 1);
  options.size = huge ? (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes : bytes;
  options.want = huge ? huge_ : PageKind::kSmall;
  auto memfd = CreateMemfd(options);
  if (!memfd.ok()) return memfd.status();
  if (!memfd->page_kind_reason().empty()) on_fallback_(memfd->page_kind_reason());
  auto mapping = Mapping::MapWritable(memfd->fd(), memfd->size(), memfd->page_kind());
  if (!mapping.ok()) return mapping.status();
  // A core file of the node is for its own state, not for gigabytes of tensors. Advice only.
  madvise(mapping->data(), mapping->size(), MADV_DONTDUMP);

  Entry entry;
  entry.id = ++last_id_;
  entry.kind = kind;
  entry.page_kind = memfd->page_kind();
  entry.ready = ready;
  entry.fd = std::move(*memfd).TakeFd();
  entry.mapping = *std::move(mapping);
  return &entries_.emplace(entry.id, std::move(entry)).first->second;
}

absl::StatusOr<const SegmentTable::Entry*> SegmentTable::Find(uint32_t id) const {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return NoSuchSegment("find segment", id);
  return &it->second;
}

absl::Status SegmentTable::SetReady(uint32_t id) {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return NoSuchSegment("set ready", id);
  it->second.ready = true;
  return absl::OkStatus();
}

absl::Status SegmentTable::CheckSealed(uint32_t id) const {
  const auto it = entries_.find(id);
  if (it == entries_.end()) return NoSuchSegment("mark sealed", id);
  if (!IsFullySealed(it->second.fd.get())) {
    return absl::FailedPreconditionError(
        absl::StrCat("mark sealed: segment ", id, " has no F_SEAL_FUTURE_WRITE"));
  }
  return absl::OkStatus();
}

absl::Status SegmentTable::Drop(uint32_t id) {
  if (entries_.erase(id) == 0) return NoSuchSegment("drop segment", id);
  return absl::OkStatus();
}

void SegmentTable::DropUnready() {
  std::erase_if(entries_, [](const auto& entry) { return !entry.second.ready; });
}

std::vector<Segment> SegmentTable::Inherit() {
  std::vector<Segment> segments;
  segments.reserve(entries_.size());
  for (auto& [id, entry] : entries_) {
    Segment segment;
    segment.id = id;
    segment.kind = entry.kind;
    segment.bytes = entry.mapping.size();
    segment.sealed = IsFullySealed(entry.fd.get());  // asked of the kernel: a death cannot lie
    segment.page_kind = static_cast<uint32_t>(entry.page_kind);
    segment.address = entry.mapping.Release();
    segment.fd = std::move(entry.fd);
    segments.push_back(std::move(segment));
  }
  entries_.clear();
  return segments;
}

}  // namespace penstock::warden
