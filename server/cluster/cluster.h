// Cluster: this node's place in a cluster on etcd: membership, the directory of names, and the links to the other nodes.
//
//   Cluster cluster(config, &kept, &store, &others);          // and `others`, the node's RemoteStore, asks its directory from now on
//   GrpcServer::Start(..., {.directory = cluster.link()});
//   cluster.Join(address);
//   cluster.Stop();  grpc->Stop();                            // in this order
//
// Threading:  any thread; callbacks between its parts come on theirs
// Ownership:  what it is given must outlive it
// Errors:     Membership::Failed
// Limits:     one cluster a process: when etcd has lost the cluster (another cluster id), the process ends, and the warden starts the
//             next one, which puts what the node has aside (StoreRecords::JoinCluster)
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/cluster/cluster_directory.h"
#include "server/directory_link/directory_link.h"
#include "server/membership/activations.h"
#include "server/membership/membership.h"
#include "server/penstockd/config.h"
#include "server/remote/remote_store.h"
#include "server/store/store.h"
#include "server/store/store_records.h"
#include "server/store/table_log.h"

namespace penstock::server {

class Cluster {
 public:
  // `say`: tells whoever runs the node.
  Cluster(const NodeConfig& config, Membership::Kept* kept, Store* store, RemoteStore* others, std::function<void(const std::string&)> say);
  ~Cluster() { Stop(); }

  DirectoryLink* link() { return link_.get(); }
  // `address`: where the other nodes reach this one's gRPC.
  void Join(const std::string& address);
  const Membership& membership() const { return *membership_; }  // after Join
  absl::StatusOr<uint64_t> Forget(const std::string& node_id) { return membership_->Forget(node_id); }
  absl::StatusOr<uint64_t> SetDraining(const std::string& node_id, bool draining) { return membership_->SetDraining(node_id, draining); }
  ClusterDirectory* directory() { return directory_.get(); }
  // Leaves the cluster. Idempotent.
  void Stop();

 private:
  ClusterDirectory::World MakeWorld();
  directory::Config DirectoryConfig() const;
  Activations::Options ActivationsOptions() const;
  void OnView(const v1::View& view, int64_t revision);
  void OnNameEvent(const directory::NameEvent& event);
  void Event(const std::string& text);

  const NodeConfig& config_;
  Membership::Kept* const kept_;
  Store* const store_;
  RemoteStore* const others_;
  const std::function<void(const std::string&)> say_;
  const directory::NodeId self_;
  const uint64_t session_;
  uint64_t cluster_id_ = 0;  // of the first view; membership's callbacks only
  StoreRecords records_;
  TableLog tables_;
  std::unique_ptr<ClusterDirectory> directory_;
  std::unique_ptr<Activations> activations_;
  std::unique_ptr<DirectoryLink> link_;
  std::unique_ptr<Membership> membership_;
};

}  // namespace penstock::server
