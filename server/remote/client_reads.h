// ClientReads: reads that clients of this node make from the data ports of others, into memory of their own.
//
// A client speaks no gRPC: this node pins the tensor there for it and hands on the grant, in a session that is this client's
// alone, so one client's token opens nothing of another's. Where both nodes have RDMA, it hands on what is needed for that, too.
//
// Threading:  any thread; calls block.
// Ownership:  the store and the peers must outlive it.
// Errors:     NOT_FOUND only when every peer has said so; UNAVAILABLE names a peer that could not be asked.
// Limits:     sessions of a client that is gone are closed by Keep, to be called about every second.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/directory/ids.h"
#include "server/remote/homes.h"
#include "server/remote/peer_table.h"
#include "server/store/store.h"

namespace penstock::server {

class ClientReads {
 public:
  // `rdma_only`: what cannot be read by RDMA is to be copied by the node, which knows what to say.
  ClientReads(Store* store, const PeerTable* peers, Homes* homes, bool rdma_only) : store_(store), peers_(peers), homes_(homes), rdma_only_(rdma_only) {}

  // Where to read a name, in the order in which to ask.
  struct Places {
    std::vector<PeerRef> peers;
    directory::OpId op{};            // with a directory: the record, and
    directory::Version version{};    // its version
    bool here = false;               // this node is one of them
    absl::Status missing;            // what it means that none of them has it
  };
  // In a cluster with a directory; before the first Open.
  void FindPlacesBy(std::function<Places(const std::string& name, uint64_t version)> find) { find_places_ = std::move(find); }

  absl::Status Open(uint64_t session, const v1::OpenReadRequest& request, v1::OpenReadResponse* response);
  absl::Status Close(uint64_t session, const v1::CloseReadRequest& request, v1::CloseReadResponse* response);
  // Renews the sessions of clients that read, closes those of others: who is gone, or has read nothing for kIdle.
  void Keep();

  static constexpr absl::Duration kIdle = absl::Seconds(5);

 private:
  using Key = std::pair<uint64_t, PeerRef>;  // session here

  struct Entry {
    PeerNode::Reader reader;
    int open = 0;  // grants, and calls under way
    absl::Time used;  // MonotonicNow
  };

  absl::StatusOr<PeerNode::Reader> ReaderOf(const Key& key);  // Done follows, at once or when the grant is given back
  void Done(const Key& key, std::string_view token);
  Places PlacesOf(const std::string& name, uint64_t version) const;
  absl::StatusOr<v1::LocateResult> LocateAt(const Key& key, const v1::OpenReadRequest& request, const Places& places, PeerNode::Reader* reader);
  bool IsHere(const v1::OpenReadRequest& request) const;
  // False: not to be read in this way.
  bool Answer(const v1::OpenReadRequest& request, const PeerNode::Reader& reader, v1::LocateResult located, v1::OpenReadResponse* response) const;
  void Renew(const Key& key, const PeerNode::Reader& reader);
  void Forget(const Key& key, std::string_view token);

  Store* const store_;
  const PeerTable* const peers_;
  Homes* const homes_;
  const bool rdma_only_;
  std::function<Places(const std::string&, uint64_t)> find_places_;  // null: by homes_
  std::mutex mutex_;
  std::map<Key, Entry> readers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
