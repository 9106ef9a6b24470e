#include "server/store/shared_segments.h"

#include <sys/mman.h>

#include <utility>

#include "proto/strcat.h"
#include "transport/segment/memfd.h"

namespace penstock::server {

absl::StatusOr<SharedSegment> SharedSegments::CreateUnsealed(const warden::SegmentRequest& request) {
  absl::StatusOr<warden::Segment> made = warden_->CreateSegment(request);
  if (!made.ok()) return made.status();
  return Adopt(*std::move(made));
}

absl::StatusOr<SharedSegment> SharedSegments::CreateSealed(const warden::SegmentRequest& request) {
  absl::StatusOr<SharedSegment> made = CreateUnsealed(request);
  if (!made.ok()) return made;
  if (absl::Status s = Seal(made->id); !s.ok()) {
    Drop(made->id);
    return s;
  }
  made->sealed = true;
  return made;
}

absl::Status SharedSegments::Seal(uint32_t id) {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(id);
  if (it == entries_.end()) return absl::NotFoundError(StrCat("seal: no segment ", id));
  if (absl::Status s = SealFutureWrite(it->second.fd.get()); !s.ok()) return s;
  it->second.info.sealed = true;
  return warden_->MarkSealed(id);
}

SharedSegment SharedSegments::Adopt(warden::Segment segment) {
  const SharedSegment info{.id = segment.id, .kind = segment.kind, .bytes = segment.bytes, .address = segment.address,
                           .page_kind = segment.page_kind, .sealed = segment.sealed};
  std::lock_guard lock(mutex_);
  entries_[segment.id] = {info, std::move(segment.fd)};
  return info;
}

UniqueFd SharedSegments::Descriptor(uint32_t id, SharedSegment* info) const {
  std::lock_guard lock(mutex_);
  auto it = entries_.find(id);
  if (it == entries_.end()) return UniqueFd();
  *info = it->second.info;
  return it->second.fd.Dup();
}

void SharedSegments::Drop(uint32_t id) {
  Entry entry;
  {
    std::lock_guard lock(mutex_);
    auto it = entries_.find(id);
    if (it == entries_.end()) return;
    entry = std::move(it->second);
    entries_.erase(it);
  }
  if (on_drop_) on_drop_(id);
  munmap(entry.info.address, entry.info.bytes);
  warden_->DropSegment(id).IgnoreError();  // a warden that is gone takes the node with it
}

}  // namespace penstock::server
