// RemoteStore: the tensors of the other nodes, for the clients of this one.
//
// Each node is the home of the names that are first put through it; who is the home of a name is found by asking the peers of
// --peers. What is put through another node later is written into a draft of the home and published there. A get through another node makes one copy in that node's own arenas (a *fetch*), which all processes of its
// host map; many that ask for it at the same time wait for one transfer. A copy is served by name after the home has said
// that it still is the present version, and as long as the lease lasts that comes with it; an exact version is served as it is.
//
// Calls take their time, so they are jobs (remote_jobs.h): Start returns a key, Take the result once OnDone was called with
// the key.
//
// Threading:  any thread.
// Ownership:  the store must outlive it.
// Errors:     NOT_FOUND only when every peer has said so; UNAVAILABLE names a peer that could not be asked.
// Limits:     those of RemoteJobs.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/rpc_methods.h"
#include "server/remote/lease_recall.h"
#include "server/remote/node_session.h"
#include "server/remote/peer_node.h"
#include "server/remote/remote_jobs.h"
#include "server/store/store.h"

namespace penstock::server {

class RemoteStore {
 public:
  // `peers`: addresses of their gRPC; may be empty: then only changes that wait for leases are its business.
  RemoteStore(Store* store, LeaseRecall* recall, const std::vector<std::string>& peers, bool may_rdma);
  ~RemoteStore() { Stop(); }

  // published: of Get, Delete and Publish; response: of Call, the serialized message.
  using Result = RemoteJobs::Result;
  uint64_t StartGet(std::string name, uint64_t version);
  uint64_t StartDelete(std::string name, uint64_t version);
  // Publishes the session's draft at the home of its name: another node (this one then keeps a copy), or this one if it
  // is, or if no other has the name. Those of one `order` one after the other, as they were started. `session`: null if it
  // has ended.
  uint64_t StartPublish(std::shared_ptr<Session> session, layout::RecordRef record, uint64_t record_seq, std::string order);
  // Whether such a publish is under way.
  template <class Order>
  bool Publishing(const Order& order) { return !jobs_.idle() && jobs_.Pending(order()); }
  uint64_t StartWork(RemoteJobs::Job job) { return jobs_.Start(std::move(job)); }
  bool has_peers() const { return !peers_.empty(); }
  // Whether the method's answer depends on other nodes.
  static bool Concerns(rpc::Method method);
  uint64_t StartCall(rpc::Method method, std::string message, uint64_t page_bytes);

  void AddPeers(v1::NodeInfoResponse* response) const;

  std::optional<Result> Take(uint64_t key) { return jobs_.Take(key); }
  void OnDone(std::function<void(uint64_t key)> callback) { jobs_.OnDone(std::move(callback)); }  // RemoteJobs::OnDone
  void Stop();  // waits for the jobs that run; idempotent

 private:
  // One transfer, and those who wait for it.
  struct Copying {
    bool done = false;
    absl::StatusOr<Published> result = absl::UnknownError("");
  };
  struct Holder {
    PeerNode* peer = nullptr;
    PeerNode::Found found;
  };

  void RenewLoop();

  absl::StatusOr<Published> Get(const std::string& name, uint64_t version);
  absl::StatusOr<Published> GetOnce(const std::string& name, uint64_t version);
  absl::StatusOr<Holder> FindHolder(const std::string& name, const PeerNode::Wanted& wanted);
  absl::StatusOr<Published> CopyOnce(const std::string& name, const Holder& holder);
  absl::StatusOr<Published> Copy(const std::string& name, const Holder& holder);
  absl::StatusOr<Published> Publish(Session& session, layout::RecordRef record, uint64_t record_seq);
  absl::StatusOr<Published> PublishAtHome(const Session& session, const Store::TakenDraft& draft);
  absl::StatusOr<Published> PublishAt(PeerNode& peer, PeerNode::Reserved reserved, const Store::TakenDraft& draft, uint64_t key);
  absl::StatusOr<Published> WriteAndPublish(PeerNode& peer, const PeerNode::Reserved& reserved, const Store::TakenDraft& draft);
  bool PauseOrStop(absl::Duration pause);  // true: stopping
  uint64_t RequestKey(const Session& session, uint64_t request_id) const;
  absl::StatusOr<Published> Delete(const std::string& name, uint64_t version);
  absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response);
  absl::Status LongestPrefix(const v1::LongestPrefixRequest& request, v1::LongestPrefixResponse* response);
  absl::Status DeletePrefix(const v1::DeletePrefixRequest& request, v1::DeletePrefixResponse* response);
  absl::Status List(const v1::ListRequest& request, uint64_t page_bytes, v1::ListResponse* response);

  Store* const store_;
  LeaseRecall* const recall_;         // of this node's own names
  std::unique_ptr<RdmaReader> rdma_;  // null: none here
  std::vector<std::unique_ptr<PeerNode>> peers_;
  NodeSession writer_;  // of the copies

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Name, version and when it was made.
  std::map<std::tuple<std::string, uint64_t, uint64_t>, std::shared_ptr<Copying>> copying_ ABSL_GUARDED_BY(mutex_);
  std::thread renewing_;
  RemoteJobs jobs_;
};

}  // namespace penstock::server
