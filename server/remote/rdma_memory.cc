#include "server/remote/rdma_memory.h"

#include <cstdio>
#include <utility>

namespace penstock::server {

RdmaMemory::RdmaMemory(std::unique_ptr<RdmaTarget> target) : target_(std::move(target)) {}

#ifdef PENSTOCK_HAS_UCX

absl::StatusOr<std::unique_ptr<RdmaMemory>> RdmaMemory::Open() {
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = OpenRdma(RdmaEnd::kOwner);
  if (!context.ok()) return context.status();
  absl::StatusOr<std::unique_ptr<RdmaTarget>> target = RdmaTarget::Start(*std::move(context));
  if (!target.ok()) return target.status();
  return std::unique_ptr<RdmaMemory>(new RdmaMemory(*std::move(target)));
}

RdmaMemory::~RdmaMemory() {
  std::lock_guard lock(mutex_);
  registered_.clear();
}

const std::string& RdmaMemory::worker() const { return target_->address(); }
std::string RdmaMemory::version() const { return UcxVersion(); }

std::string RdmaMemory::KeyOf(const SharedSegment& segment) {
  std::lock_guard lock(mutex_);
  auto it = registered_.find(segment.id);
  if (it != registered_.end()) return it->second.key;
  absl::StatusOr<RdmaTarget::Registration> registered = target_->Register(segment.address, segment.bytes);
  if (!registered.ok()) {
    fprintf(stderr, "penstockd: rdma: segment %u of %llu bytes is not registered, its tensors go over the stream lane: %s\n", segment.id,
            static_cast<unsigned long long>(segment.bytes), std::string(registered.status().message()).c_str());
    registered = RdmaTarget::Registration{};  // not tried again
  }
  return registered_.emplace(segment.id, *std::move(registered)).first->second.key;
}

absl::StatusOr<RdmaTarget::Registration> RdmaMemory::RegisterBlock(char* data, uint64_t bytes) {
  if (!target_->takes_back()) return absl::NotFoundError("this UCX keeps what was unregistered");
  return target_->Register(data, bytes);
}

#else

absl::StatusOr<std::unique_ptr<RdmaMemory>> RdmaMemory::Open() { return absl::NotFoundError("this build has no UCX"); }
RdmaMemory::~RdmaMemory() = default;
const std::string& RdmaMemory::worker() const {
  static const std::string none;
  return none;
}
std::string RdmaMemory::version() const { return {}; }
std::string RdmaMemory::KeyOf(const SharedSegment&) { return {}; }
absl::StatusOr<RdmaTarget::Registration> RdmaMemory::RegisterBlock(char*, uint64_t) { return absl::NotFoundError("this build has no UCX"); }

#endif

void RdmaMemory::Forget(uint32_t segment) {
  std::lock_guard lock(mutex_);
  registered_.erase(segment);
}

}  // namespace penstock::server
