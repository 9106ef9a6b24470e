#include "server/cluster/cluster_moves.h"

#include "proto/names.h"
#include "proto/strcat.h"
#include "transport/monotonic.h"

namespace penstock::server {

absl::Status MoveTensor(ClusterDirectory& directory, const v1::MoveTensorRequest& request, directory::NodeId to, const NodeNameOf& name_of,
                        v1::MoveTensorResponse* response) {
  if (absl::Status s = ValidateName(request.name()); !s.ok()) return s;
  const std::string what = StrCat("'", request.name(), "'");
  const std::optional<directory::MoveAnswer> answer = directory.MoveNow(request.name(), to, request.copy(), MonotonicNow() + kMovePatience);
  if (!answer) return absl::DeadlineExceededError(StrCat(what, ": it is still on its way to node ", request.to(), ", and goes on; ask again"));
  switch (answer->outcome) {
    case directory::MoveOutcome::kDone:
      if (answer->from != 0) response->set_from(name_of(answer->from));
      response->set_bytes(answer->bytes);
      return absl::OkStatus();
    case directory::MoveOutcome::kAbsent: return absl::NotFoundError(StrCat(what, ": no such tensor in the cluster"));
    case directory::MoveOutcome::kLost: return directory.Lost(what);
    case directory::MoveOutcome::kNoNode: return absl::NotFoundError(StrCat("to: node ", request.to(), " is no member of the cluster"));
    case directory::MoveOutcome::kDraining:
      return absl::FailedPreconditionError(StrCat("to: node ", request.to(), " drains; `penstock drain --undo` lets it keep tensors again"));
    case directory::MoveOutcome::kFull: return absl::ResourceExhaustedError(StrCat("to: node ", request.to(), " has no room for ", what));
    case directory::MoveOutcome::kFailed:
      return absl::UnavailableError(StrCat(what, ": node ", request.to(), " could not copy it: it has no room, or does not reach those that have it"));
    case directory::MoveOutcome::kStays:
      return absl::UnavailableError(StrCat(what, ": node ", request.to(), " has it now, and none of the others has let go of it; ask again"));
    case directory::MoveOutcome::kElsewhere: break;
  }
  return absl::UnavailableError(StrCat(what, ": its home has not answered yet; try again"));
}

}  // namespace penstock::server
