// RemoteSessions: readers and writers on other hosts, what they have pinned or are writing, and until when.
//
// A reader on this host has a socket whose end is its death notice, and a pin table. One on another host has neither: its
// session lives until a deadline that it renews, and a pin is a *grant*, a number that opens one block on the data port. So
// does a draft: its number opens its block for writing; that of a channel lets it be followed.
// A reader that was killed or stopped is over at its deadline; one that wakes up too late gets an error, for its token
// is not known any more.
//
// Threading:  any thread; one lock, never held while the store is called.
// Ownership:  holds the pinned tensors and followed channels; the store and the channels must outlive it. What a transfer uses is held by the transfer, too.
// Errors:     PERMISSION_DENIED the session is over or was never there, or the grant is not its own; NOT_FOUND the tensor;
//             RESOURCE_EXHAUSTED too many sessions, grants or drafts, or no memory; the store's.
// Limits:     kMaxGrants and kMaxDrafts a session; deadlines are looked at by Expire, to be called a few times a second.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/mutable/mutable_memory.h"
#include "server/remote/fetch_chains.h"
#include "server/remote/growing_copies.h"
#include "server/remote/lease_recall.h"
#include "server/remote/node_session.h"
#include "server/remote/put_offers.h"
#include "server/remote/remote_draft.h"
#include "server/store/store.h"
#include "transport/lane/lane.h"

namespace penstock::server {

class RemoteSessions final : public GrantTable {
 public:
  static constexpr size_t kMaxGrants = 65536;
  static constexpr size_t kMaxDrafts = 4096;  // RemoteStore sends at most 16 batches of 128 at a time
  static constexpr absl::Duration kLeastTtl = absl::Seconds(1);
  static constexpr absl::Duration kMostTtl = absl::Seconds(60);
  static constexpr absl::Duration kDefaultTtl = absl::Seconds(10);
  // How much longer than it says the node waits: a reader's clock may be a little slow, its last read just over.
  static constexpr absl::Duration kMargin = absl::Milliseconds(500);

  static constexpr absl::Duration kAwaitRecalls = absl::Seconds(1);

  // `recall` must outlive it, too. `channels`: null in a test that has none.
  RemoteSessions(Store* store, LeaseRecall* recall, size_t max_sessions, MutableMemory* channels = nullptr)
      : store_(store), recall_(recall), max_sessions_(max_sessions), channels_(channels), writer_(store, "remote writers") {}

  struct Opened {
    LaneToken token;
    absl::Duration ttl;
  };
  // `now` here and below: MonotonicNow.
  absl::StatusOr<Opened> Open(std::string_view label, absl::Duration ttl, bool rdma, absl::Time now);
  absl::StatusOr<absl::Duration> Renew(const LaneToken& token, absl::Time now);
  void Close(const LaneToken& token);

  struct Wanted {
    uint64_t version = 0;          // 0: the present one
    uint64_t have_version = 0;     // of a copy there; if it is the same, no pin is needed
    uint64_t have_created_ns = 0;
    bool lease = false;            // of the name
    directory::OpId op{};          // the record that this put made, whatever its version and state; {}: by name and version
    bool verify = false;           // its bytes are compared with their checksum first
  };
  struct Located {
    v1::TensorInfo info;
    uint64_t grant = 0;
    const char* data = nullptr;
    SharedSegment segment;  // Store::HeldTensor's
    bool unchanged = false;
    absl::Duration lease;
    bool rdma = false;  // as the session
  };
  absl::StatusOr<Located> Locate(const LaneToken& token, std::string_view name, const Wanted& wanted);
  // The session's node begins to copy this tensor: after whom it reads, and where (fetch_chains.h). Until the grant is released.
  struct Chain {
    std::optional<NodeUuid> ahead;  // none: here
    uint32_t ahead_count = 0;
  };
  absl::StatusOr<Chain> JoinChain(const LaneToken& token, uint64_t grant, const NodeUuid& node);
  // Pins a copy of another node's tensor, made or still growing (growing_copies.h). NOT_FOUND: there is none of this version.
  struct LocatedCopy {
    uint64_t grant = 0;
    uint64_t nbytes = 0;
  };
  absl::StatusOr<LocatedCopy> LocateCopy(const LaneToken& token, const std::string& name, uint64_t version, uint64_t created_ns);
  void ServeGrowing(const GrowingCopies* copies) { growing_ = copies; }  // before the first session; to outlive it
  PutOffers* offers() { return &offers_; }  // which every session may read
  // Waits for the session's next recalls, at most kAwaitRecalls. LeaseRecall::Await
  absl::StatusOr<LeaseRecall::Recalls> AwaitRecalls(const LaneToken& token, uint64_t done);
  struct OpenedChannel {
    MutableMemory::Facts facts;
    uint64_t grant = 0;
  };
  // `look`: without a grant. Else a grant of that channel that the session has is released.
  absl::StatusOr<OpenedChannel> OpenChannel(const LaneToken& token, const std::string& name, bool look);
  // Grants and drafts; these are aborted.
  absl::Status Release(const LaneToken& token, absl::Span<const uint64_t> numbers);

  struct Reserved {
    uint64_t draft = 0;
    std::optional<Published> published;  // by this very request, which has come before; no draft then
    char* data = nullptr;                // of the draft
    bool rdma = false;                   // as the session
  };
  // Waits for memory, at most Store::kMemoryWait. `if_home`: NOT_FOUND unless this node has a tensor of the name as its own.
  // spec.request_id: told from all others, or 0.
  // In a cluster with a directory, before the first session: what is put and asked for here, by nodes that are no members of it, is
  // anywhere in the cluster. `fetch` makes a copy here; it and `publish` wait.
  struct Cluster {
    NodeSession::Publisher publish;
    std::function<absl::StatusOr<Published>(const std::string& name, uint64_t version)> fetch;
  };
  void UseDirectory(Cluster cluster) {
    writer_.PublishBy(std::move(cluster.publish));
    fetch_ = std::move(cluster.fetch);
  }
  absl::StatusOr<Reserved> Reserve(const LaneToken& token, const CreateSpec& spec, bool if_home);
  // One result each. FAILED_PRECONDITION while a transfer still writes to it; else the draft is over, whatever the result.
  // `written_by_rdma`: drafts that the writer has written whole with the key that it got.
  std::vector<absl::StatusOr<Published>> Publish(const LaneToken& token, absl::Span<const uint64_t> drafts, absl::Span<const uint64_t> written_by_rdma = {});
  // The draft keeps the registration until it is over. NOT_FOUND, PERMISSION_DENIED: it is.
  absl::Status ShareByRdma(const LaneToken& token, uint64_t draft, std::shared_ptr<const void> registration);
  // OK while the session lives.
  absl::Status Check(const LaneToken& token);
  absl::Status BeginCall(const LaneToken& token);  // the same, and counts it

  // Ends the sessions whose time is over.
  void Expire(absl::Time now);
  // Called (no lock held) with the token of a session that has ended: its connections are to be cut.
  void OnEnd(std::function<void(const LaneToken&)> callback) { on_end_ = std::move(callback); }

  // For `penstock sessions` and `pins`: added to what the store says of its own.
  void ListSessions(v1::SessionsResponse* response) const;
  void ListPins(const v1::PinsRequest& request, v1::PinsResponse* response) const;
  size_t count() const;

  // --- GrantTable: the data port asks ---
  bool KnowsToken(const LaneToken& token) override { return Check(token).ok(); }
  std::optional<LaneToken> TokenOf(const TlsIdentity& identity) override;
  absl::StatusOr<GrantedBlock> Use(const LaneToken& token, uint64_t grant, TransferKind kind) override;
  absl::StatusOr<std::shared_ptr<StepSource>> Follow(const LaneToken& token, uint64_t grant) override;

 private:
  absl::StatusOr<Store::HeldTensor> HoldFetched(std::string_view name, uint64_t version);
  // A pinned tensor. `growing`: it is a copy that was not whole when it was pinned.
  struct Grant {
    Store::HeldTensor held;
    std::shared_ptr<GrowingCopy> growing{};
    std::shared_ptr<const void> place{};  // in the tensor's chain
  };
  absl::StatusOr<uint64_t> AddGrant(const LaneToken& token, Grant grant, bool* rdma = nullptr);
  struct FollowedChannel {
    uint64_t incarnation = 0;
    std::shared_ptr<ChannelSource> source;
  };
  struct RemoteSession {
    uint64_t id;
    std::string label;
    absl::Duration ttl;
    absl::Time deadline;
    bool rdma;  // gets keys
    uint64_t opened_ns;
    uint64_t requests = 0;
    absl::flat_hash_map<uint64_t, Grant> grants;
    absl::flat_hash_map<uint64_t, std::shared_ptr<RemoteDraft>> drafts;
    std::map<uint64_t, FollowedChannel> channels{};
  };
  using Sessions = std::map<LaneToken, RemoteSession>;

  Sessions::node_type TakeOut(Sessions::const_iterator session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Ended(const LaneToken& token);
  absl::StatusOr<std::shared_ptr<RemoteDraft>> TakeDraft(const LaneToken& token, uint64_t number);
  absl::StatusOr<RemoteSession*> Find(const LaneToken& token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Store* const store_;
  LeaseRecall* const recall_;
  const size_t max_sessions_;
  MutableMemory* const channels_;
  const GrowingCopies* growing_ = nullptr;
  FetchChains chains_;
  PutOffers offers_;
  NodeSession writer_;
  std::function<absl::StatusOr<Published>(const std::string&, uint64_t)> fetch_;  // null: without a directory
  std::function<void(const LaneToken&)> on_end_;

  mutable std::mutex mutex_;
  Sessions sessions_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<TlsIdentity, LaneToken> identities_ ABSL_GUARDED_BY(mutex_);  // of the same sessions
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t next_grant_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace penstock::server
