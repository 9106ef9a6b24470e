// StoreService: the control calls of store.proto, one handler each, for gRPC and for the submission ring.
//
// Decodes, calls the store, encodes; decides nothing.
//
// Threading:  any thread; what changes names may block it while leases are called back.
// Ownership:  the store, the recall and the remote sessions must outlive it.
// Errors:     a call's own (malformed message, bad prefix); errors of single items are in their results.
// Limits:     a batch has at most kMaxBatch items; a list page at most `page_bytes`.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/remote/remote_sessions.h"
#include "server/cluster/cluster_events.h"
#include "server/cluster/cluster_names.h"
#include "server/cluster/cluster_puts.h"
#include "server/rpc/request_rate.h"
#include "server/store/store.h"
#include "store.pb.h"

namespace penstock::server {

struct NodeFacts {
  std::string socket_dir;
  std::string grpc_address;
  std::string version;
  uint32_t warden_pid = 0;
  std::string data_address;  // empty: none
  bool tls = false;          // what gRPC over TCP and the data port speak
  std::vector<std::string> lanes;
  std::string tenant{};                   // empty: everybody's
  uint64_t max_requests_per_second = 0;   // 0: no limit
};

class StoreService {
 public:
  static constexpr int kMaxBatch = 100000;

  // `remote`: may be null; else it is told of in Df, Sessions and Pins.
  StoreService(Store* store, LeaseRecall* recall, NodeFacts facts, const RemoteSessions* remote = nullptr)
      : store_(store), recall_(recall), facts_(std::move(facts)), remote_(remote), rate_(facts_.max_requests_per_second) {}

  absl::Status NodeInfo(const v1::NodeInfoRequest& request, v1::NodeInfoResponse* response);
  absl::Status Allocate(Session* session, const v1::AllocateRequest& request, v1::AllocateResponse* response);
  absl::Status Publish(Session* session, const v1::PublishRequest& request, v1::PublishResponse* response);
  absl::Status Abort(Session* session, const v1::AbortRequest& request, v1::AbortResponse* response);
  absl::Status Commit(Session* session, const v1::CommitRequest& request, v1::CommitResponse* response);
  absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response);
  absl::Status LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response);
  absl::Status Delete(const v1::DeleteRequest& request, v1::DeleteResponse* response);
  absl::Status DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response);
  absl::Status OpenRead(const v1::OpenReadRequest& request, v1::OpenReadResponse* response);  // of a node without peers
  absl::Status List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response);
  absl::Status Df(const v1::DfRequest& request, v1::DfResponse* response);
  absl::Status Sessions(const v1::SessionsRequest& request, v1::SessionsResponse* response);
  absl::Status Pins(const v1::PinsRequest& request, v1::PinsResponse* response);
  absl::Status Quarantined(const v1::QuarantinedRequest& request, v1::QuarantinedResponse* response);

  // By the ring only. Waits while the warden looks at the library on disk.
  absl::Status RestartNode(const v1::RestartNodeRequest& request, v1::RestartNodeResponse* response);

  // These have to wait: nothing = not yet. Ask again after a change of the store, or give up at the call's deadline.
  std::optional<absl::Status> Wait(const v1::WaitRequest& request, v1::WaitResponse* response);
  std::optional<absl::Status> Watch(const v1::WatchRequest& request, v1::WatchResponse* response);
  static absl::Time WaitDeadline(uint64_t timeout_ns);  // of MonotonicNow; at most 1 s ahead

  // A call by number with serialized messages. Wait and Watch are not among them.
  absl::Status Call(uint32_t method, Session* session, std::string_view request, uint64_t page_bytes, std::string* response);

  Store* store() const { return store_; }
  // Of clients' requests: whoever serves one takes its turn first.
  RequestRate& rate() { return rate_; }
  // In a cluster with a directory: names are their homes' business, for which these calls wait. Before the first call.
  void UseDirectory(ClusterNames* names, ClusterPuts* puts, ClusterEvents* events) {
    names_ = names;
    puts_ = puts;
    events_ = events;
  }
  // What RestartNode does. To be set before the first call, as the next one.
  void OnRestart(std::function<absl::Status()> callback) { restart_ = std::move(callback); }
  // What others know for Df. Before the first call.
  void OnDf(std::function<void(v1::DfResponse*)> callback) { add_to_df_ = std::move(callback); }
  // Who tells the rest of NodeInfo: of the peers, and what is known later. To be set before the first call.
  void OnNodeInfo(std::function<void(v1::NodeInfoResponse*)> callback) { complete_ = std::move(callback); }

 private:
  Store* const store_;
  LeaseRecall* const recall_;
  const NodeFacts facts_;
  const RemoteSessions* const remote_;
  RequestRate rate_;
  std::function<void(v1::NodeInfoResponse*)> complete_;
  std::function<absl::Status()> restart_;
  std::function<void(v1::DfResponse*)> add_to_df_;
  ClusterNames* names_ = nullptr;
  ClusterPuts* puts_ = nullptr;
  ClusterEvents* events_ = nullptr;
};

}  // namespace penstock::server
