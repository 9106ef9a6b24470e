#include "transport/lane/granted_blocks.h"

#include "absl/strings/str_cat.h"

namespace penstock {

absl::StatusOr<RemoteBlock> GrantedBlocks::Find(uint64_t grant, TransferKind kind) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = blocks_.find(grant);
  if (it == blocks_.end()) return absl::PermissionDeniedError(absl::StrCat("grant ", grant, ": not this session's, or released"));
  if (it->second.second != kind) return absl::PermissionDeniedError(absl::StrCat("grant ", grant, ": not for this"));
  return it->second.first;
}

}  // namespace penstock
