#include "server/cluster/cluster_quarantine.h"

#include <cstring>
#include <string>

#include "absl/time/clock.h"
#include "proto/names.h"
#include "proto/strcat.h"
#include "server/store/record_info.h"
#include "transport/fault_point.h"

namespace penstock::server {

absl::Status ClusterQuarantine::Settle(const v1::SettleQuarantinedRequest& request, v1::SettleQuarantinedResponse* response) {
  if (absl::Status s = ValidateName(request.name()); !s.ok()) return s;
  const directory::OpId op{request.op_session(), request.op_count()};
  if (request.take()) {
    const absl::StatusOr<Published> taken = Take(request.name(), op, request.replace());
    if (!taken.ok()) return taken.status();
    response->mutable_version()->set_term(taken->version_term);
    response->mutable_version()->set_number(taken->version_number);
    PENSTOCK_FAULT_POINT("node.quarantine.taken");  // the next one finds both: to take it once more is refused, to drop it is right
  }
  const absl::Status dropped = store_->DropQuarantined(request.name(), op);
  if (request.take() && absl::IsNotFound(dropped)) return absl::OkStatus();  // somebody has dropped it meanwhile
  if (dropped.ok()) store_->LogEvent(v1::Event::NODE, StrCat("'", request.name(), "': what was quarantined is ", request.take() ? "put again" : "dropped"));
  return dropped;
}

absl::StatusOr<Published> ClusterQuarantine::Take(const std::string& name, directory::OpId op, bool replace) {
  const absl::StatusOr<Store::HeldTensor> held = store_->WhileReturning([&] { return store_->HoldQuarantined(name, op); });
  if (!held.ok()) return held.status();
  const std::optional<directory::HeldRecord> record = store_->FindByOp(name, op);
  if (!record) return absl::NotFoundError(StrCat("'", name, "': it is not quarantined here any more"));
  const absl::StatusOr<v1::RecordInfo> info = ParseRecordInfo(record->info);
  if (!info.ok()) return info.status();
  std::string metadata;
  absl::StatusOr<CreateSpec> spec = SpecOfRecord(name, *info, &metadata);
  if (!spec.ok()) return spec.status();
  if (!replace) spec->if_version = 0;
  if (info->expires_ns() != 0) {
    const auto now = static_cast<uint64_t>(absl::GetCurrentTimeNanos());
    if (info->expires_ns() <= now) return absl::FailedPreconditionError(StrCat("'", name, "': its time to live is over; drop it"));
    spec->ttl_ns = info->expires_ns() - now;
  }
  const absl::StatusOr<Placed> placed = writer_.Reserve(*spec, Store::kMemoryWait);
  if (!placed.ok()) return placed.status();
  if (spec->nbytes > 0) std::memcpy(placed->block.address, held->data, spec->nbytes);
  return writer_.Publish(*placed);
}

}  // namespace penstock::server
