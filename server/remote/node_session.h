// NodeSession: the session in whose name the node itself writes: copies of what other nodes have, drafts of remote writers.
//
// Such drafts go when the node's process dies, for nobody could go on with them.
//
// Threading:  any thread
// Ownership:  the store must outlive it
// Errors:     RESOURCE_EXHAUSTED no room in the time that one waits for memory; DATA_LOSS a copy does not have the checksum of its
//             original
// Limits:     the store's drafts a session
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/store/store.h"
#include "transport/unique_fd.h"

namespace penstock::server {

class NodeSession {
 public:
  NodeSession(Store* store, std::string label) : store_(store), label_(std::move(label)) {}

  // A draft in an arena (Placed::Kind::kPlaced); waits for memory, at most so long.
  absl::StatusOr<Placed> Reserve(CreateSpec spec, absl::Duration longest);
  // It is over then, whatever the result, unless that is IsLeased.
  absl::StatusOr<Published> Publish(const Placed& draft, LeaseRule leases = LeaseRule::kRespect);
  // For Store::Prepare: it is not the session's any more.
  absl::StatusOr<Store::TakenDraft> Take(const Placed& draft);
  void Abort(const Placed& draft);
  absl::StatusOr<Store::HeldTensor> Hold(const Placed& draft);  // Store::HoldDraft
  // In a cluster with a directory: how Publish does it, for the home of a name decides. Before the first Publish.
  using Publisher = std::function<absl::StatusOr<Published>(const std::shared_ptr<Session>& session, const Placed& draft)>;
  void PublishBy(Publisher publisher) { publisher_ = std::move(publisher); }

 private:
  absl::StatusOr<std::shared_ptr<Session>> Open();

  Store* const store_;
  const std::string label_;
  Publisher publisher_;  // null: the store itself
  std::mutex mutex_;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  UniqueFd peer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace penstock::server
