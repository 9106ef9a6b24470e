// ClientReads: reads that clients of this node make from the data ports of others, into memory of their own.
//
// A client speaks no gRPC: this node pins the tensor there for it and hands on the grant, in a session that is this client's
// alone, so one client's token opens nothing of another's.
//
// Threading:  any thread; calls block.
// Ownership:  the store and the peers must outlive it.
// Errors:     NOT_FOUND only when every peer has said so; UNAVAILABLE names a peer that could not be asked.
// Limits:     sessions of a client that is gone are closed by Keep, to be called about every second.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/remote/homes.h"
#include "server/remote/peer_node.h"
#include "server/store/store.h"

namespace penstock::server {

class ClientReads {
 public:
  using Peers = std::vector<std::unique_ptr<PeerNode>>;
  // `by_node`: clients are to have it copied by the node, always.
  ClientReads(Store* store, const Peers* peers, Homes* homes, bool by_node) : store_(store), peers_(peers), homes_(homes), by_node_(by_node) {}

  absl::Status Open(uint64_t session, const v1::OpenReadRequest& request, v1::OpenReadResponse* response);
  absl::Status Close(uint64_t session, const v1::CloseReadRequest& request);
  // Renews the sessions of clients that read, closes those of others: who is gone, or has read nothing for kIdle.
  void Keep();

  static constexpr absl::Duration kIdle = absl::Seconds(5);

 private:
  using Key = std::pair<uint64_t, PeerNode*>;  // session here

  struct Entry {
    PeerNode::Reader reader;
    int open = 0;  // grants, and calls under way
    absl::Time used;  // MonotonicNow
  };

  absl::StatusOr<PeerNode::Reader> ReaderOf(const Key& key);  // Done follows, at once or when the grant is given back
  void Done(const Key& key, std::string_view token);
  absl::StatusOr<v1::LocateResult> LocateAt(const Key& key, const v1::OpenReadRequest& request, PeerNode::Reader* reader);
  void Forget(const Key& key, std::string_view token);

  Store* const store_;
  const Peers* const peers_;
  Homes* const homes_;
  const bool by_node_;
  std::mutex mutex_;
  std::map<Key, Entry> readers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
