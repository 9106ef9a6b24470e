// Homes: which node is the home of a name, as far as this one can tell.
//
// Only the home itself knows, so peers are asked: first the one where the name was found last, then the others. What else looks for
// a home does so through here, and here is where the cluster's directory will answer.
//
// Threading:  any thread; Find calls `ask` on several threads at a time, for different peers and names.
// Ownership:  the peers must outlive it.
// Errors:     none of its own: what a peer answers is the caller's business
// Limits:     kRemembered names are remembered; a wrong memory costs one call
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "server/remote/peer_table.h"

namespace penstock::server {

class Homes {
 public:
  static constexpr size_t kRemembered = 65536;

  // `new_names_at_peers`: what nobody has gets one of the peers as its home, else this node, whose uuid is `own_uuid`.
  Homes(const PeerTable* peers, bool new_names_at_peers, std::string own_uuid = {})
      : peers_(peers), new_names_at_peers_(new_names_at_peers), own_uuid_(std::move(own_uuid)) {}

  // Asks one peer about those of the names; true for each of which no other one need be asked.
  using Ask = std::function<std::vector<bool>(const PeerRef& peer, absl::Span<const size_t> which)>;
  // Asks about each name until that is so, or everybody was asked: a peer about all names of a round at once, and the peers of a
  // round at the same time.
  void Find(absl::Span<const std::string_view> names, const Ask& ask);
  // The order in which one name's peers are asked.
  std::vector<PeerRef> InOrder(std::string_view name) const;
  void Found(std::string_view name, const PeerRef& peer);

  // The home-to-be of a name that nobody has: the same for all who have these peers, in whatever order; of a name in kOneHomeFolder
  // the same for all nodes that know each other. Null: this node.
  PeerRef ForNew(std::string_view name) const;

  size_t node_count() const { return peers_->count() + 1; }

 private:
  const PeerTable* const peers_;
  const bool new_names_at_peers_;
  const std::string own_uuid_;
  mutable std::mutex mutex_;
  absl::flat_hash_map<uint64_t, const PeerNode*> found_ ABSL_GUARDED_BY(mutex_);  // by the hash of a name; may be gone
};

}  // namespace penstock::server
