// RemoteGets: tensors of other nodes, copied to this one when its clients ask for them (a *fetch*).
//
// What is asked for together is located together: one call to each peer for all names, one batch of transfers for what is
// small, a transfer of its own for each that is large. Many that ask for the same tensor at the same time, in one batch or
// in several, wait for one transfer.
//
// Threading:  any thread; Get blocks until every answer was given, but for large tensors, which go on in `jobs`.
// Ownership:  the store, the peers and the jobs must outlive it.
// Errors:     NOT_FOUND only when every peer has said so; a TransportError where RDMA is required and cannot be had; UNAVAILABLE names a peer that could not be asked; RESOURCE_EXHAUSTED
//             no room for the copy within Store::kMemoryWait.
// Limits:     copies are of class *cache*: they give way.
//
// In a cluster with a directory the name's home says which nodes hold it, and the copy is read from one of them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "server/remote/homes.h"
#include "server/cluster/cluster_directory.h"
#include "server/remote/growing_copies.h"
#include "server/remote/held_leases.h"
#include "server/remote/large_reads.h"
#include "server/remote/node_session.h"
#include "server/remote/peer_node.h"
#include "server/remote/remote_jobs.h"
#include "server/store/store.h"

namespace penstock::server {

class RemoteGets {
 public:
  static constexpr uint64_t kLargeBytes = uint64_t{4} << 20;  // from here on a transfer of its own

  RemoteGets(Store* store, Homes* homes, RemoteJobs* jobs) : store_(store), homes_(homes), jobs_(jobs), writer_(store, "fetch") {}

  struct Item {
    std::string name;
    uint64_t version = 0;  // 0: the present one
    uint64_t key = 0;      // of `jobs`, which is told the result
    bool require_rdma = false;
  };
  void Get(std::vector<Item> items);

  struct Cluster {
    ClusterDirectory* directory = nullptr;  // null: none, the peers are asked
    HeldLeases* leases = nullptr;           // of copies here
    directory::NodeId self = 0;
    std::function<PeerRef(directory::NodeId)> peer_of;  // null: it is no member
  };
  void UseDirectory(Cluster cluster) { cluster_ = std::move(cluster); }  // before the first Get

  // Large ones are read by several nodes from each other; before the first Get. `copies`: those here, which others read.
  void UseChains(GrowingCopies* copies, LargeReads::Others others) {
    growing_ = copies;
    large_ = std::make_unique<LargeReads>(std::move(others));
  }

 private:
  // An item on its way.
  struct Asked {
    Item item;
    int tries = 0;
    absl::StatusOr<Published> here = absl::NotFoundError("");  // what is here
    bool own = false;       // and is this node's own
    bool located = false;
    PeerRef peer;           // where; null: `here` is it
    PeerNode::Found found;
    absl::Status status;    // why it was not found
    directory::LookupResult place;  // with a directory
    absl::Time asked_at = absl::InfinitePast();
    absl::Time lease_until = absl::InfinitePast();
  };
  // One transfer, and those who wait for it.
  struct Copying {
    bool done = false;
    absl::StatusOr<Published> result = absl::UnknownError("");
  };
  using What = GrowingCopies::Key;
  // A copy that this thread makes.
  struct Making {
    What what;
    std::shared_ptr<Copying> copying;
    const Asked* asked = nullptr;
    Placed placed;
    absl::StatusOr<Published> result = absl::UnknownError("");
  };

  void GetAll(std::vector<Asked> asked);
  void Locate(std::vector<Asked>* asked);
  static std::vector<bool> LocateAt(const PeerRef& peer, absl::Span<Asked* const> asked);
  void LocateByDirectory(std::vector<Asked>* asked);
  bool LocateHere(Asked* one);
  void LocateAtHolders(std::vector<Asked*> open);
  absl::StatusOr<Published> AwaitOwn(const std::string& name, directory::OpId op);
  void TakeLease(const Asked& asked, const Published& copy);
  void Fetch(std::vector<Asked> found);
  std::shared_ptr<Copying> Join(const What& what, bool* mine);
  void Make(std::vector<Making>* making);
  void Read(std::vector<Making*> making);
  void ReadLarge(Making* one);
  void EndRead(Making* one, const absl::Status& status);
  absl::Status Damaged(const Asked& asked);
  void Answer(const Asked& asked, const absl::StatusOr<Published>& got);
  void Release(const std::vector<Asked>& found);

  Store* const store_;
  Homes* const homes_;
  RemoteJobs* const jobs_;
  NodeSession writer_;  // of the copies
  GrowingCopies* growing_ = nullptr;  // these two: null without chains
  std::unique_ptr<LargeReads> large_;
  Cluster cluster_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<What, std::shared_ptr<Copying>> copying_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
