// EtcdClient: the few calls of etcd's API (proto/etcd.proto) that membership and the directory's activations make.
//
// Asks one of the endpoints, and another one when that is not reached, is no member of a quorum, or answers too late. With a user and a
// password it authenticates, and again when etcd has forgotten the token.
//
// Threading:  any thread; calls block theirs, for at most the deadline that they are given.
// Ownership:  a Watching must not outlive the client.
// Errors:     UNAVAILABLE no endpoint answered (with the last one's reason); PERMISSION_DENIED, UNAUTHENTICATED what etcd refuses; else
//             etcd's own code. A Txn with UNAVAILABLE may have been made all the same.
// Limits:     none of its own
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "etcd.grpc.pb.h"
#include "server/penstockd/config.h"

namespace penstock::server {

// Keys from `from` on, and before `to`.
struct EtcdRange {
  std::string from, to;
};
EtcdRange WithPrefix(std::string_view prefix);

// What a transaction demands: the key's mod revision is that one (0: it is not there); that key's next value.
void CompareRevision(etcdserverpb::TxnRequest* txn, const std::string& key, int64_t mod_revision);
etcdserverpb::PutRequest* PutOnSuccess(etcdserverpb::TxnRequest* txn, const std::string& key, std::string value);

class EtcdClient {
 public:
  // `endpoints`: host:port; at least one.
  EtcdClient(const std::vector<std::string>& endpoints, const EtcdAccess& access);

  // As of one revision, which has all that was acknowledged before the call (linearizable).
  absl::StatusOr<etcdserverpb::RangeResponse> List(const EtcdRange& range, absl::Duration patience);
  absl::StatusOr<etcdserverpb::TxnResponse> Txn(const etcdserverpb::TxnRequest& request, absl::Duration patience);
  absl::StatusOr<int64_t> GrantLease(absl::Duration ttl, absl::Duration patience);
  // What is left of the lease, once more its whole length; NOT_FOUND: it is over.
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease, absl::Duration patience);
  absl::Status RevokeLease(int64_t lease, absl::Duration patience);

  // Changes of a range's keys, from a revision on.
  class Watching {
   public:
    explicit Watching(EtcdClient* client) : client_(client) {}
    // Calls back with each change's answer, on this thread, until Stop or until etcd ends it. OUT_OF_RANGE: `from` is compacted away.
    absl::Status Run(const EtcdRange& range, int64_t from, const std::function<void(const etcdserverpb::WatchResponse&)>& changed);
    void Stop();  // any thread; idempotent

   private:
    EtcdClient* const client_;
    std::mutex mutex_;
    bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
    grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  };

 private:
  struct Endpoint {
    std::string address;
    std::shared_ptr<grpc::Channel> channel;
  };
  // One call at an endpoint.
  using Call = std::function<grpc::Status(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext* context)>;
  absl::Status Ask(const Call& call, absl::Duration patience);
  absl::Status AskOne(const Endpoint& endpoint, const Call& call, absl::Duration patience);
  absl::Status Authenticate(const Endpoint& endpoint, absl::Duration patience);
  void Authorize(grpc::ClientContext* context);
  const Endpoint& Present() const { return endpoints_[present_.load() % endpoints_.size()]; }

  const EtcdAccess access_;
  std::vector<Endpoint> endpoints_;
  std::atomic<size_t> present_{0};
  std::mutex mutex_;
  std::string token_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
