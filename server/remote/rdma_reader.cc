#include "server/remote/rdma_reader.h"

#include <utility>

#include "proto/strcat.h"
#include "transport/ucx/rdma_target.h"

namespace penstock::server {

absl::StatusOr<RemoteBlock> GrantedBlocks::Find(uint64_t grant, TransferKind kind) const {
  std::lock_guard lock(mutex_);
  auto it = blocks_.find(grant);
  if (it == blocks_.end()) return absl::PermissionDeniedError(StrCat("grant ", grant, ": not this session's, or released"));
  if (it->second.second != kind) return absl::PermissionDeniedError(StrCat("grant ", grant, ": not for this"));
  return it->second.first;
}

#ifdef PENSTOCK_HAS_UCX

absl::StatusOr<std::unique_ptr<RdmaReader>> RdmaReader::Open() {
  absl::StatusOr<std::shared_ptr<ucx::UcpContext>> context = OpenRdma(RdmaEnd::kReader);
  if (!context.ok()) return context.status();
  return std::unique_ptr<RdmaReader>(new RdmaReader(*std::move(context)));
}

std::string RdmaReader::version() const { return UcxVersion(); }

absl::StatusOr<std::shared_ptr<Lane>> RdmaReader::NewLane(std::string worker, std::shared_ptr<GrantedBlocks> blocks) {
  absl::StatusOr<std::unique_ptr<RdmaLane>> lane =
      RdmaLane::Create(context_, {.peer = [worker = std::move(worker)] { return worker; },
                                  .locate = [blocks = std::move(blocks)](uint64_t grant, TransferKind kind) { return blocks->Find(grant, kind); }});
  if (!lane.ok()) return lane.status();
  return std::shared_ptr<Lane>(*std::move(lane));
}

#else

absl::StatusOr<std::unique_ptr<RdmaReader>> RdmaReader::Open() { return absl::NotFoundError("this build has no UCX"); }
std::string RdmaReader::version() const { return {}; }
absl::StatusOr<std::shared_ptr<Lane>> RdmaReader::NewLane(std::string, std::shared_ptr<GrantedBlocks>) {
  return absl::UnimplementedError("this build has no UCX");
}

#endif

}  // namespace penstock::server
