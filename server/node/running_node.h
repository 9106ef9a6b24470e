// RunningNode: the parts of a node process, in the order in which they need each other.
//
//   RunningNode node(context, say);
//   absl::Status started = node.Start();      // it answers calls then, but for what only a member of the cluster may
//   absl::Status ended = node.Run(signals);   // until one of them comes
//
// Threading:  one thread; its parts have theirs
// Ownership:  the context must outlive it
// Errors:     Start: what is wrong with a flag, a port, a file or the memory that was found (DATA_LOSS; it has been given up then)
// Limits:     one a process
#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/cluster/cluster.h"
#include "server/control/control_server.h"
#include "server/metrics/metrics_server.h"
#include "server/node/maintenance.h"
#include "server/node/restart.h"
#include "server/node/scratch.h"
#include "server/remote/rdma_memory.h"
#include "server/remote/remote_sessions.h"
#include "server/remote/remote_store.h"
#include "server/remote/ucx_tcp.h"
#include "server/ring/ring_server.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/peer_service.h"
#include "server/rpc/store_service.h"
#include "server/store/store.h"
#include "server/warden/node_abi.h"
#include "transport/stream/stream_server.h"

namespace penstock::server {

class RunningNode {
 public:
  // `say`: tells whoever runs the node.
  RunningNode(warden::NodeContext* context, std::function<void(const std::string&)> say);

  absl::Status Start();
  absl::Status Run(const sigset_t& stop_signals);

 private:
  absl::Status OpenStore();
  absl::Status OpenLanes();
  void MakeServices();
  void JoinCluster();
  void TellOfNode();
  absl::Status StartGrpc();
  absl::Status StartLocal();
  absl::StatusOr<bool> WaitToJoin(const sigset_t& stop_signals) const;
  void TellReady() const;
  [[noreturn]] void HandOver();
  void Stop();
  const Membership* membership() const { return cluster_ == nullptr ? nullptr : &cluster_->membership(); }

  warden::NodeContext* const context_;
  const NodeConfig& config_;
  const std::function<void(const std::string&)> say_;
  Scratch* const scratch_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MutableMemory> changing_;
  std::optional<LeaseRecall> recall_;
  std::optional<RemoteSessions> remote_;
  std::optional<GrowingCopies> growing_;
  std::unique_ptr<RdmaMemory> rdma_;    // these three: null where they are off
  std::unique_ptr<StreamServer> data_;
  std::unique_ptr<UcxTcp> ucx_tcp_;
  std::optional<PeerService> peer_;
  std::optional<StoreService> service_;
  std::optional<RemoteStore> others_;
  std::atomic<int> tcp_port_{0}, http_port_{0};
  std::unique_ptr<Cluster> cluster_;    // null: none
  std::optional<Restart> restart_;
  std::atomic<const Membership*> member_{nullptr};
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<RingServer> rings_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<MetricsServer> metrics_;
  std::optional<Maintenance> maintenance_;
};

}  // namespace penstock::server
