// PeerNode: another node of the store, as this one sees it.
//
// Keeps a remote session with it (opened when first needed, renewed while something is pinned or being written, opened again
// when the peer has been restarted), and the lane to its data port.
//
// While this node holds leases on its names, one call there waits for their recall.
//
// Threading:  any thread; calls block their thread. One thread of its own, asleep while there is no lease.
// Ownership:  what was found must be released, what was reserved published or aborted; the PeerNode must outlive it.
// Errors:     UNAVAILABLE the peer cannot be asked (at once for a while after a failure); else what the peer answers.
// Limits:     calls take at most kCallSeconds, ReserveIfHome kReserveSeconds (the peer waits for memory); transfers as long as
//             their size at 10 MB/s allows. Stop ends transfers.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "peer.grpc.pb.h"
#include "proto/uuid_text.h"
#include "server/mutable/mutable_memory.h"
#include "server/penstockd/config.h"
#include "server/remote/held_leases.h"
#include "server/remote/ucx_tcp.h"
#include "server/store/store.h"
#include "store.grpc.pb.h"
#include "transport/lane/lane.h"
#include "transport/ucx/rdma_reader.h"

namespace penstock::server {

class PeerNode {
 public:
  static constexpr int kCallSeconds = 2;
  static constexpr int kReserveSeconds = 7;

  // What this node can do.
  struct Lanes {
    RdmaReader* rdma = nullptr;  // null: nothing, for the reason `no_rdma`
    std::string no_rdma;
    const UcxTcp* ucx_tcp = nullptr;  // null: off
  };
  // `address`: of its gRPC, host:port, which speaks TLS if `tls` is on.
  PeerNode(std::string address, Store* store, const TlsFiles& tls, Lanes lanes);
  ~PeerNode() { Stop(); }

  struct Wanted {
    std::string name;
    uint64_t version = 0;       // 0: the present one
    uint64_t have_version = 0;  // of a copy here, which need not be read again
    uint64_t have_created_ns = 0;
    bool lease = false;
    directory::OpId op{};  // the record that this put made; {}: by name and version
    bool verify = false;   // its bytes are compared with their checksum first: DataLoss if they are damaged there
  };
  struct Found {
    v1::TensorInfo info;
    uint64_t grant = 0;
    std::shared_ptr<Lane> lane;
    std::shared_ptr<Lane> rdma;  // null: the other lane only
    std::shared_ptr<GrantedBlocks> blocks;
    std::string token;
    bool unchanged = false;  // it is what was had; not pinned
    absl::Duration lease;    // zero: none
    absl::Time asked;        // MonotonicNow
  };
  // Pins the tensors there. One result each.
  std::vector<absl::StatusOr<Found>> Locate(absl::Span<const Wanted> wanted);
  // All bytes of a tensor that was found to `to`, info.nbytes() long.
  struct Reading {
    const Found* found = nullptr;
    char* to = nullptr;
    bool rdma_only = false;
    absl::Status status{};  // afterwards
    std::vector<std::pair<uint64_t, uint64_t>> parts{};           // begin, end: only these; empty: all
    std::function<void(uint64_t begin, uint64_t end)> arrived{};  // of what has come over the stream lane. May be empty
    absl::Duration stall = absl::InfiniteDuration();              // UNAVAILABLE when for so long nothing of all readings has come
  };
  void Read(absl::Span<Reading> readings);  // of one Locate
  void Release(absl::Span<const Found* const> found);
  // Whole tensors that the peer offers (put_offers.h), over the stream lane. NOT_FOUND: not any more.
  struct OfferedReading {
    uint64_t offer = 0;
    absl::Span<char> to;
    absl::Status status{};  // afterwards
  };
  void ReadOffered(absl::Span<OfferedReading> readings);
  // This node begins to copy what was found, and will be read by those that are sent to it: who is to be read before that peer.
  struct Chain {
    std::optional<NodeUuid> ahead;  // none: that peer
    uint32_t ahead_count = 0;
  };
  absl::StatusOr<Chain> JoinChain(const Found& found, const NodeUuid& self);
  // Pins the peer's copy of that tensor, which may still be growing. To be released.
  absl::StatusOr<Found> LocateCopy(const v1::TensorInfo& original);
  // Its uuid becomes known, if it answers.
  void Meet() { (void)(CheckUp().ok() && Session().ok()); }
  // The lease that was found, if any, is this copy's. Recalls are heard from now on.
  void TakeLease(const Found& found, const Published& copy);

  // A draft there.
  struct Reserving {
    const v1::CreateSpec* spec = nullptr;
    uint64_t nbytes = 0;
    uint64_t request_key = 0;
    bool rdma_only = false;
    bool if_home = true;  // NOT_FOUND unless the peer is the home of the name; else it becomes that
  };
  struct Reserved {
    uint64_t draft = 0;
    std::optional<Published> published;  // by this very request, before; no draft then
    std::shared_ptr<Lane> lane;
    std::shared_ptr<Lane> rdma;  // null: the stream lane only
    std::shared_ptr<GrantedBlocks> blocks;
    std::string token;
    NodeUuid home{};
    bool written_by_rdma = false;
  };
  std::vector<absl::StatusOr<Reserved>> Reserve(absl::Span<const Reserving> items);
  struct Writing {
    Reserved* reserved = nullptr;
    absl::Span<const char> bytes;  // all of them
    bool rdma_only = false;
    absl::Status status{};  // afterwards
  };
  void Write(absl::Span<Writing> writings);  // of one Reserve
  // The drafts are over then.
  std::vector<absl::StatusOr<Published>> Publish(absl::Span<const Reserved* const> reserved);
  void Abort(absl::Span<const Reserved* const> reserved);

  // A session of its own for a client of this node, which reads from the data port there by itself.
  struct Reader {
    std::string token;
    std::string data_address;
    bool tls = false;
    v1::Lane rdma;         // what the peer offers, and this node may use; no name: nothing
    absl::Time deadline;   // MonotonicNow: until when what is pinned there certainly is
  };
  absl::StatusOr<Reader> OpenReader(const std::string& label);
  absl::StatusOr<v1::LocateResult> LocateFor(const Reader& reader, const std::string& name, uint64_t version, directory::OpId op);
  void ReleaseFor(const Reader& reader, absl::Span<const uint64_t> grants) { GiveBack(reader.token, grants); }
  absl::StatusOr<absl::Time> RenewFor(const Reader& reader);  // its deadline now; PERMISSION_DENIED: it is over
  void CloseReader(const Reader& reader);
  bool reads_by_rdma() const;

  // A channel there. What the answer says of it was checked.
  struct Channel {
    MutableMemory::Facts facts;
    uint64_t grant = 0;
  };
  absl::StatusOr<MutableMemory::Facts> LookForChannel(const std::string& name);
  // With grants, in the reader's session. One result each.
  absl::StatusOr<std::vector<absl::StatusOr<Channel>>> OpenChannels(const Reader& reader, absl::Span<const std::string> names);

  // A call of service Store there, for what that node has itself.
  template <class Request, class Response>
  absl::Status Ask(grpc::Status (v1::Store::Stub::*method)(grpc::ClientContext*, const Request&, Response*), const Request& request,
                   Response* response) {
    if (absl::Status s = CheckUp(); !s.ok()) return s;
    grpc::ClientContext context;
    Prepare(&context);
    return Judge((store_.get()->*method)(&context, request, response));
  }

  // It is none of the cluster's members: every call says why from now on, and nothing is sent. Empty: it is one again.
  void SetAbsent(std::string why);
  bool absent() const;

  // Renews the session if something is pinned. To be called every second.
  void Renew();
  void Tell(v1::PeerInfo* info) const;
  absl::Status NoRdma() const;  // the TransportError of one who wants nothing else
  void Stop();  // idempotent
  const std::string& address() const { return address_; }
  std::string uuid() const;  // empty: it has never answered

 private:
  PeerNode(std::string address, Store* store, const TlsFiles& tls, Lanes lanes, const std::shared_ptr<grpc::Channel>& channel);

  struct Open {
    std::string token;
    std::shared_ptr<Lane> lane;
    std::shared_ptr<Lane> rdma;
    std::shared_ptr<GrantedBlocks> blocks;
    NodeUuid id{};
    absl::Duration ttl;
    absl::Time deadline;  // MonotonicNow: until when what is pinned there certainly is
    int pins = 0;  // and drafts
  };

  void HearRecalls();
  void RenewNow(const std::string& token);
  absl::StatusOr<v1::OpenSessionResponse> OpenSessionThere(const std::string& label, const std::string& rdma_version);  // its first lane is the stream lane
  void OpenLanes(const v1::OpenSessionResponse& response, Open* open);
  // These two: why not; empty: opened.
  std::string OpenRdmaLane(const v1::OpenSessionResponse& response, Open* open) const;
  std::string OpenTcpLane(const v1::OpenSessionResponse& response, Open* open) const;  // ucx-tcp, else stream
  // What is to be moved for readings, and for which each is.
  struct Moves {
    std::vector<Transfer> transfers;
    std::vector<Reading*> of;
  };
  static Moves MovesOf(absl::Span<Reading* const> readings);
  void ReadByRdma(absl::Span<Reading* const> readings);
  void ReadByStream(absl::Span<Reading* const> readings);
  void WriteByRdma(absl::Span<Writing* const> writings);
  static std::vector<Transfer> TransfersOf(absl::Span<Writing* const> writings);
  bool RdmaIsUp();
  void NoteRdmaFailure(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Open> AskLocate(absl::Span<const Wanted> wanted, v1::LocateResponse* response);
  Found TakeFound(const Open& session, v1::LocateResult* result, absl::Time asked);
  static void Prepare(grpc::ClientContext* context, int seconds = kCallSeconds);
  static void Prepare(grpc::ClientContext* context, const std::string& token, int seconds = kCallSeconds);
  // A call that needs the session; once more with another one when that one is over.
  template <class Request, class Response>
  absl::StatusOr<Open> AskInSession(grpc::Status (v1::Peer::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                    const Request& request, Response* response, int seconds);
  void Count(const std::string& token, int more);
  void GiveBack(const std::string& token, absl::Span<const uint64_t> numbers);
  void Owe(const std::string& token, absl::Span<const uint64_t> numbers);
  void GiveBackOwed(const std::string& token);
  void Move(Lane* lane, const std::string& token, absl::Span<Transfer> transfers, const RunOptions& options);
  RunOptions Patience(absl::Span<const Transfer> transfers, absl::Duration least) const;
  absl::Status Lapsed(const std::string& token, const absl::Status& why);
  absl::Status CheckUp();
  absl::Status Judge(const grpc::Status& status);
  static absl::Status Decode(const v1::Status& status);
  absl::StatusOr<Channel> TakeChannel(const std::string& name, const v1::ChannelResult& result) const;
  absl::StatusOr<Open> Session();
  void Forget(const std::string& token);

  const std::string address_;
  const bool tls_;
  const Lanes can_;
  const std::unique_ptr<v1::Peer::Stub> peer_;
  const std::unique_ptr<v1::Store::Stub> store_;
  HeldLeases leases_;
  std::atomic<bool> stopping_{false};

  mutable std::mutex mutex_;
  std::mutex opening_;  // one session is opened at a time
  std::string lane_ ABSL_GUARDED_BY(mutex_) = "stream";
  std::string why_ ABSL_GUARDED_BY(mutex_);
  uint64_t reads_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t read_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time rdma_down_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
  Open open_ ABSL_GUARDED_BY(mutex_);  // token empty: none
  std::string uuid_ ABSL_GUARDED_BY(mutex_);  // of the last one that was open
  // By session: grants and drafts of which the peer could not be told that they are over.
  absl::flat_hash_map<std::string, std::vector<uint64_t>> owed_ ABSL_GUARDED_BY(mutex_);
  absl::Time down_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
  std::string down_why_ ABSL_GUARDED_BY(mutex_);
  std::string absent_ ABSL_GUARDED_BY(mutex_);  // why; empty: it is a member

  std::condition_variable leased_;
  absl::Time leased_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // MonotonicNow
  grpc::ClientContext* hearing_ ABSL_GUARDED_BY(mutex_) = nullptr;           // the call that waits for recalls
  std::thread hears_recalls_ ABSL_GUARDED_BY(mutex_);                        // from the first lease on
};

template <class Request, class Response>
absl::StatusOr<PeerNode::Open> PeerNode::AskInSession(grpc::Status (v1::Peer::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                                      const Request& request, Response* response, int seconds) {
  for (int attempt = 0;; ++attempt) {
    if (absl::Status s = CheckUp(); !s.ok()) return s;
    absl::StatusOr<Open> session = Session();
    if (!session.ok()) return session.status();
    grpc::ClientContext context;
    Prepare(&context, session->token, seconds);
    absl::Status status = Judge((peer_.get()->*method)(&context, request, response));
    if (status.ok()) return session;
    if (absl::IsUnavailable(status)) Forget(session->token);  // what it may have pinned there, nobody knows: it goes with the session
    if (!absl::IsPermissionDenied(status) || attempt > 0) return status;
    Forget(session->token);  // lapsed, or of an earlier node process
  }
}

}  // namespace penstock::server
