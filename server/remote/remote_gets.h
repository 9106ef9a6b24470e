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

 private:
  // An item on its way.
  struct Asked {
    Item item;
    bool last_try = false;
    absl::StatusOr<Published> here = absl::NotFoundError("");  // the copy that is here
    PeerRef peer;
    PeerNode::Found found;
    absl::Status status;  // why it was not found
  };
  // One transfer, and those who wait for it.
  struct Copying {
    bool done = false;
    absl::StatusOr<Published> result = absl::UnknownError("");
  };
  using What = std::tuple<std::string, uint64_t, uint64_t>;  // name, version, when it was made
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
  void Fetch(std::vector<Asked> found);
  std::shared_ptr<Copying> Join(const What& what, bool* mine);
  void Make(std::vector<Making>* making);
  void Read(std::vector<Making*> making);
  void Answer(const Asked& asked, const absl::StatusOr<Published>& got);
  void Release(const std::vector<Asked>& found);

  Store* const store_;
  Homes* const homes_;
  RemoteJobs* const jobs_;
  NodeSession writer_;  // of the copies

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<What, std::shared_ptr<Copying>> copying_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
