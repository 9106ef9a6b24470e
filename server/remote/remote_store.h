// RemoteStore: the tensors of the other nodes, for the clients of this one.
//
// Clients read into memory of their own by client_reads.h, and follow channels by channel_mirrors.h.
//
// Each node is the home of the names that are first put through it; who is the home of a name is found by asking the peers of
// --peers (homes.h). Gets (remote_gets.h) make copies here, puts (remote_puts.h) go to the home of their name. A copy is served by name
// after the home has said that it still is the present version, and as long as the lease lasts that comes with it; an exact
// version is served as it is.
//
// Calls take their time, so they are jobs (remote_jobs.h): Start returns a key, Take the result once OnDone was called with
// the key.
//
// Threading:  any thread.
// Ownership:  the store must outlive it.
// Errors:     NOT_FOUND only when every peer has said so; UNAVAILABLE names a peer that could not be asked.
// Limits:     those of RemoteJobs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster.pb.h"
#include "proto/rpc_methods.h"
#include "server/remote/channel_mirrors.h"
#include "server/remote/client_reads.h"
#include "server/remote/homes.h"
#include "server/remote/lease_recall.h"
#include "server/remote/peer_measure.h"
#include "server/remote/peer_table.h"
#include "server/remote/remote_gets.h"
#include "server/remote/remote_jobs.h"
#include "server/remote/remote_puts.h"
#include "server/store/store.h"

namespace penstock::server {

struct RemoteStoreOptions {
  std::vector<std::string> peers;   // addresses of their gRPC; empty: none, or those of the cluster's views
  bool in_cluster = false;          // SetMembers tells who the others are
  TlsFiles tls;                     // of gRPC
  bool may_use_rdma = false;        // where there is
  std::string why_no_rdma;          // it may not be used
  bool require_rdma = false;        // nothing else, for whatever session
  const UcxTcp* ucx_tcp = nullptr;  // where it is on
  bool new_names_at_peers = false;  // what nobody has gets one of them as its home
  MutableMemory* channels = nullptr;  // null: those of other nodes are not for this one
};

class RemoteStore {
 public:
  RemoteStore(Store* store, LeaseRecall* recall, const RemoteStoreOptions& options);
  ~RemoteStore() { Stop(); }

  // published: of Get, Delete and Publish; response: of Call, the serialized message.
  using Result = RemoteJobs::Result;
  // Gets and publishes begin with the next Flush, so that those that come together go together.
  uint64_t StartGet(std::string name, uint64_t version, bool require_rdma);
  uint64_t StartDelete(std::string name, uint64_t version);
  // Publishes the session's draft at the home of its name: another node (this one then keeps a copy), or this one if it
  // is, or if no other has the name. Those of one `order` one after the other, as they were started. `session`: null if it
  // has ended.
  uint64_t StartPublish(std::shared_ptr<Session> session, layout::RecordRef record, uint64_t record_seq, std::string order);
  // Whether such a publish is under way.
  template <class Order>
  bool Publishing(const Order& order) {
    return (unflushed_.load() > 0 || !jobs_.idle()) && IsPublishing(order());
  }
  void Flush();
  uint64_t StartWork(RemoteJobs::Job job) { return jobs_.Start(std::move(job)); }
  bool has_peers() const { return peers_.count() > 0; }
  ChannelMirrors* channels() { return channels_.get(); }  // null: without peers
  // Whether the method's answer depends on other nodes.
  static bool Concerns(rpc::Method method);
  uint64_t StartCall(rpc::Method method, uint64_t session, std::string message, uint64_t page_bytes);

  void AddPeers(v1::NodeInfoResponse* response) const;

  // The cluster's other nodes. Those that are absent are not asked, but what they may have is not said to be nowhere.
  void SetMembers(const v1::View& view, std::string_view self);
  void OnForget(std::function<absl::StatusOr<uint64_t>(const std::string& id)> forget) { forget_ = std::move(forget); }

  std::optional<Result> Take(uint64_t key) { return jobs_.Take(key); }
  void OnDone(std::function<void(uint64_t key)> callback) { jobs_.OnDone(std::move(callback)); }  // RemoteJobs::OnDone
  void Stop();  // waits for the jobs that run; idempotent

 private:
  struct Put {
    RemotePuts::Item item;
    std::string order;
  };

  struct Batch {
    std::vector<RemotePuts::Item> items;
    absl::flat_hash_set<std::string> orders;
  };

  PeerRef NewPeer(const std::string& address);
  absl::Status ForgetNode(const v1::ForgetNodeRequest& request, v1::ForgetNodeResponse* response);
  void RenewLoop();
  bool IsPublishing(const std::string& order);
  void Run(Batch* batch);
  absl::StatusOr<Published> Delete(const std::string& name, uint64_t version);
  absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response);
  static std::vector<bool> StatAt(PeerNode& peer, const v1::StatRequest& ask, const std::vector<v1::TensorResult*>& results);
  absl::Status LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response);
  absl::Status DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response);
  absl::Status List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response);

  Store* const store_;
  LeaseRecall* const recall_;         // of this node's own names
  const bool require_rdma_;
  std::unique_ptr<RdmaReader> rdma_;  // null: none here
  const RemoteStoreOptions options_;
  std::string why_no_rdma_;
  std::function<absl::StatusOr<uint64_t>(const std::string&)> forget_;
  PeerTable peers_;
  Homes homes_;
  RemoteGets gets_;
  RemotePuts puts_;
  ClientReads reads_;
  PeerMeasure measure_;
  std::unique_ptr<ChannelMirrors> channels_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<size_t> unflushed_{0};
  std::vector<RemoteGets::Item> unflushed_gets_ ABSL_GUARDED_BY(mutex_);
  std::vector<Put> unflushed_puts_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::string> unflushed_orders_ ABSL_GUARDED_BY(mutex_);
  std::thread renewing_;
  RemoteJobs jobs_;
};

}  // namespace penstock::server
