// Checksums: computed before a tensor is published, checked when its bytes have been moved.
#include <utility>

#include "proto/strcat.h"
#include "server/store/store.h"
#include "transport/checksum/crc32c.h"

namespace penstock::server {

using layout::ChecksumState;
using layout::Record;

absl::Status FinishChecksum(layout::ChecksumPart* part, const void* data, uint64_t nbytes) {
  if (part == nullptr || part->state == ChecksumState::kKnown) return absl::OkStatus();
  const uint32_t crc32c = Crc32c(data, nbytes);
  if (part->state == ChecksumState::kExpected && part->crc32c != crc32c) {
    return absl::DataLossError(StrCat("its ", nbytes, " bytes do not have the CRC32C that they were put with"));
  }
  *part = {crc32c, ChecksumState::kKnown};
  return absl::OkStatus();
}

void Store::NoteDamaged(std::string_view name, std::string_view where) {
  std::lock_guard lock(mutex_);
  ++checksum_errors_;
  LogLocked(v1::Event::WARNING, StrCat("'", name, "': the bytes ", where.empty() ? "that this node has" : StrCat("that came from ", where),
                                       " do not have the CRC32C that they were put with"));
}

absl::Status Store::Verify(const HeldTensor& held) {
  const v1::TensorInfo& info = held.info;
  if (!info.has_crc32c() || Crc32c(held.data, info.nbytes()) == info.crc32c()) return absl::OkStatus();
  NoteDamaged(info.name(), {});
  std::lock_guard lock(mutex_);
  const Record* record = slabs_->At(info.location().record());
  if (record->cluster_state != 0 && on_wants_to_go_) {
    work_.Add([callback = on_wants_to_go_, going = HeldOf(info.location().record())] { callback(going.name, going.op, Wish::kDamaged); });
  }
  return absl::DataLossError(StrCat("'", info.name(), "': this node's copy is damaged: its bytes do not have the CRC32C that they were put with"));
}

}  // namespace penstock::server
