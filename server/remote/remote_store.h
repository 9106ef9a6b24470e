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
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster.pb.h"
#include "proto/rpc_methods.h"
#include "server/cluster/cluster_events.h"
#include "server/cluster/cluster_names.h"
#include "server/cluster/cluster_puts.h"
#include "server/cluster/cluster_quarantine.h"
#include "server/cluster/copy_maker.h"
#include "server/cluster/link_load.h"
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
  GrowingCopies* growing = nullptr;   // what other nodes may read here while it is copied; null: nothing
  PutOffers* offers = nullptr;        // by which other nodes read what is put here, for replicas; null: they ask for it
  uint64_t repair_bytes_per_second = 0;  // CopyMaker; 0: no limit
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
  // With a directory: the end of a put that an earlier process of this node has begun.
  uint64_t StartAwaitPut(std::string name, directory::OpId op);
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

  // In a cluster with a directory: from now on names are asked of their homes, and puts stay here. Before the first Start; the
  // directory is stopped before this is.
  void UseDirectory(ClusterDirectory* directory, directory::NodeId self);
  std::string NodeName(directory::NodeId node);  // its uuid
  // What StartGet gives, and waits for it.
  absl::StatusOr<Published> GetNow(const std::string& name, uint64_t version);
  bool by_directory() const { return names_ != nullptr; }
  ClusterNames* names() { return names_.get(); }              // null: without a directory
  ClusterEvents* events() { return events_.get(); }            // likewise
  ClusterPuts* cluster_puts() { return cluster_puts_.get(); }  // likewise
  void StartCopy(const directory::Pull& pull) { copies_->Start(pull); }
  // An order to copy what is being put here says how to read it.
  void OfferTo(directory::Pull* pull) const {
    if (options_.offers != nullptr) pull->offer = options_.offers->NumberOf(pull->op);
  }
  void RecallCopy(std::string_view name) {
    copy_leases_.Obey({std::string(name)});
    store_->DropCopy(name);
  }
  absl::Status ListHomes(const v1::ListRequest& request, v1::ListResponse* response) { return names_->ListHomes(request, response); }
  // A record here that is to go: evicted (its home lets it go if others have it, or if it is of class cache), or expired.
  void LetGo(const std::string& name, directory::OpId op, Store::Wish why);

  // The cluster's other nodes. Those that are absent are not asked, but what they may have is not said to be nowhere.
  void SetMembers(const v1::View& view, std::string_view self);
  void OnDrain(std::function<absl::StatusOr<uint64_t>(const std::string& id, bool draining)> drain) { drain_ = std::move(drain); }
  // What this node's data port has sent, ever.
  void CountSentBy(std::function<uint64_t()> sent_bytes) { sent_bytes_ = std::move(sent_bytes); }
  // What the directory knows of lost and repaired tensors.
  void AddDf(v1::DfResponse* df) const;
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
  absl::Status DrainNode(const v1::DrainNodeRequest& request, v1::DrainNodeResponse* response);
  absl::Status MoveTensor(const v1::MoveTensorRequest& request, v1::MoveTensorResponse* response);
  absl::Status SettleQuarantined(const v1::SettleQuarantinedRequest& request, v1::SettleQuarantinedResponse* response);
  absl::StatusOr<directory::NodeId> MemberOf(const std::string& uuid);
  absl::Status ForgetNode(const v1::ForgetNodeRequest& request, v1::ForgetNodeResponse* response);
  void RenewLoop();
  void TellLoad();
  bool IsPublishing(const std::string& order);
  void Finish(uint64_t key, const absl::StatusOr<Published>& published);
  void Run(Batch* batch);
  PeerRef PeerOf(directory::NodeId node);
  PeerRef PeerNamed(const std::string& uuid);
  PeerRef PeerMet(const std::string& uuid);
  ClientReads::Places PlacesOf(const std::string& name, uint64_t version);
  absl::StatusOr<Published> Delete(const std::string& name, uint64_t version);
  absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response);
  std::optional<uint64_t> StartStat(const std::string& message);
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
  std::function<absl::StatusOr<uint64_t>(const std::string&, bool)> drain_;
  std::function<uint64_t()> sent_bytes_;
  LinkLoad link_load_;  // RenewLoop's
  PeerTable peers_;
  Homes homes_;
  RemoteGets gets_;
  RemotePuts puts_;
  ClientReads reads_;
  PeerMeasure measure_;
  std::unique_ptr<ChannelMirrors> channels_;

  // In a cluster with a directory.
  ClusterDirectory* directory_ = nullptr;
  directory::NodeId self_ = 0;
  HeldLeases copy_leases_{store_};
  std::unique_ptr<ClusterNames> names_;
  std::unique_ptr<ClusterPuts> cluster_puts_;
  std::unique_ptr<ClusterQuarantine> quarantine_;
  std::unique_ptr<CopyMaker> copies_;
  std::unique_ptr<ClusterEvents> events_;

  std::mutex meeting_;
  absl::Time met_at_ ABSL_GUARDED_BY(meeting_) = absl::InfinitePast();  // MonotonicNow

  std::mutex mutex_;
  absl::flat_hash_map<directory::NodeId, PeerRef> by_node_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<directory::NodeId, std::string> uuids_ ABSL_GUARDED_BY(mutex_);
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
