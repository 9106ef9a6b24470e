// ClusterQuarantine: what becomes of the records that nobody can tell to be current, when somebody who can has decided.
//
// To *take* one is to put it again under its name, as any client would: a copy, with a new version, judged by the home, with its
// replicas. So it can be taken at any node that has one, and the first one wins.
//
// Threading:  any thread; Settle waits, as a put does
// Ownership:  what it is given must outlive it
// Errors:     NOT_FOUND it is not there (any more); ALREADY_EXISTS the name is taken, and `replace` was not asked for; those of a put
// Limits:     to take one needs memory for it once more, until it is done
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/cluster/cluster_puts.h"
#include "server/remote/node_session.h"
#include "server/store/store.h"
#include "store.pb.h"

namespace penstock::server {

class ClusterQuarantine {
 public:
  ClusterQuarantine(Store* store, ClusterPuts* puts) : store_(store), writer_(store, "quarantine") {
    writer_.PublishBy([puts](const std::shared_ptr<Session>& session, const Placed& draft) {
      return puts->PublishNow(session, {{draft.record, draft.record_seq}})[0];
    });
  }

  absl::Status Settle(const v1::SettleQuarantinedRequest& request, v1::SettleQuarantinedResponse* response);

 private:
  absl::StatusOr<Published> Take(const std::string& name, directory::OpId op, bool replace);

  Store* const store_;
  NodeSession writer_;
};

}  // namespace penstock::server
