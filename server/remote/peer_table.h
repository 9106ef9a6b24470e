// PeerTable: the other nodes of the store, as they are now: those of --peers for ever, or those of the cluster's view.
//
// Threading:  any thread.
// Ownership:  shares each peer with who works with it: one that has left the table goes with the last of them.
// Errors:     none
// Limits:     none
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "server/remote/peer_node.h"

namespace penstock::server {

using PeerRef = std::shared_ptr<PeerNode>;

class PeerTable {
 public:
  PeerTable() = default;
  explicit PeerTable(std::vector<PeerRef> peers) { Set(std::move(peers)); }

  std::vector<PeerRef> Now() const {
    std::lock_guard lock(mutex_);
    return peers_;
  }
  void Set(std::vector<PeerRef> peers) {
    std::lock_guard lock(mutex_);
    peers_ = std::move(peers);
    count_.store(peers_.size());
  }
  size_t count() const { return count_.load(); }

 private:
  mutable std::mutex mutex_;
  std::vector<PeerRef> peers_ ABSL_GUARDED_BY(mutex_);
  std::atomic<size_t> count_{0};
};

}  // namespace penstock::server
