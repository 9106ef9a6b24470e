// CopyMaker: replicas, made on this node because a home or a proposer wants them (directory::Pull).
//
// Threading:  any thread; Start returns at once, the copies are made in `jobs`
// Ownership:  what it is given must outlive it
// Errors:     told to the directory: a copy that could not be made is asked of somebody else
// Limits:     those of RemoteJobs; a copy waits for memory at most Store::kMemoryWait
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "server/cluster/cluster_directory.h"
#include "server/remote/node_session.h"
#include "server/remote/peer_table.h"
#include "server/remote/remote_jobs.h"
#include "server/store/store.h"

namespace penstock::server {

class CopyMaker {
 public:
  using PeerOf = std::function<PeerRef(directory::NodeId node)>;  // null: it is no member

  CopyMaker(Store* store, ClusterDirectory* directory, RemoteJobs* jobs, PeerOf peer_of)
      : store_(store), directory_(directory), jobs_(jobs), peer_of_(std::move(peer_of)), writer_(store, "replica") {}

  void Start(const directory::Pull& pull);

 private:
  absl::Status Make(const directory::Pull& pull);
  absl::Status MakeFrom(PeerNode& peer, const directory::Pull& pull);

  Store* const store_;
  ClusterDirectory* const directory_;
  RemoteJobs* const jobs_;
  const PeerOf peer_of_;
  NodeSession writer_;
};

}  // namespace penstock::server
