#include "server/cluster/copy_maker.h"

#include <algorithm>
#include <vector>

#include "proto/strcat.h"
#include "server/store/record_info.h"
#include "transport/fault_point.h"

namespace penstock::server {

void CopyMaker::Start(const directory::Pull& pull) {
  jobs_->Run([this, pull] {
    const absl::Status made = Make(pull);
    PENSTOCK_FAULT_POINT("node.replica.made");
    directory_->OnFetched(pull.name, pull.op, made.ok());
  });
}

// From the first that gives it.
absl::Status CopyMaker::Make(const directory::Pull& pull) {
  absl::Status why = absl::UnavailableError("nobody has it");
  for (const directory::NodeId node : pull.from) {
    const PeerRef peer = peer_of_(node);
    if (peer == nullptr) continue;
    why = MakeFrom(*peer, pull);
    if (why.ok()) return why;
  }
  return why;
}

absl::Status CopyMaker::MakeFrom(PeerNode& peer, const directory::Pull& pull) {
  const std::vector<PeerNode::Wanted> wanted = {{.name = pull.name, .op = pull.op}};
  std::vector<absl::StatusOr<PeerNode::Found>> found = peer.Locate(wanted);
  if (!found[0].ok()) return found[0].status();
  std::string metadata;
  const absl::StatusOr<v1::RecordInfo> info = ParseRecordInfo(pull.info.info);
  const absl::StatusOr<CreateSpec> spec = info.ok() ? SpecOfRecord(pull.name, *info, &metadata) : info.status();
  absl::StatusOr<Placed> placed = spec.ok() ? writer_.Reserve(*spec, Store::kMemoryWait) : spec.status();
  absl::Status status = placed.status();
  if (status.ok() && found[0]->info.nbytes() != spec->nbytes) {
    status = absl::DataLossError(StrCat("'", pull.name, "': its home tells of ", spec->nbytes, " bytes, its holder of ", found[0]->info.nbytes()));
  }
  if (status.ok()) {
    std::vector<PeerNode::Reading> readings = {{.found = &*found[0], .to = placed->block.address}};
    peer.Read(absl::MakeSpan(readings));
    status = readings[0].status;
  }
  const PeerNode::Found* const released[] = {&*found[0]};
  peer.Release(released);
  PENSTOCK_FAULT_POINT("node.replica.read");
  if (status.ok()) {
    status = writer_.Take(*placed).status();
    if (status.ok()) {
      status = store_->Prepare(placed->record, {.op = pull.op, .prepared_in = std::max(pull.view, directory_->term()),
                                                .created_ns = info->created_ns(), .expires_ns = info->expires_ns()});
      if (!status.ok()) store_->DropTaken(placed->record);
      return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
    }
  }
  if (placed.ok()) writer_.Abort(*placed);
  return status;
}

}  // namespace penstock::server
