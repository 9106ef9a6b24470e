// Store: the node's tensors. Everything that a client can ask of a node ends here.
//
// Life of a tensor: Reserve (a draft: record + block, invisible) -> the bytes are written -> Publish (one 8-byte store
// makes it visible, the older version is retired) -> Delete, overwrite, expiry or eviction (retired) -> reclaimed when no
// session pins it. Drafts lie in the catalog like tensors, so that a node process that dies loses none.
//
// Threading:  any thread; one mutex. Readers of tensors do not come here at all (catalog + pins).
// Ownership:  memory is the warden's; the books are rebuilt from the catalog when a node process starts (Open).
// Errors:     InvalidArgument (field, value, what is allowed), NotFound, AlreadyExists (if_absent), Aborted (if_version,
//             version not larger), ResourceExhausted (numbers and who holds the memory).
// Limits:     StoreLimits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "penstock/dtype.h"
#include "penstock/shape.h"
#include "proto/layout/catalog_layout.h"
#include "proto/uuid_text.h"
#include "server/directory/records.h"
#include "server/store/block_space.h"
#include "server/store/deleted_versions.h"
#include "server/store/directory_book.h"
#include "server/store/event_log.h"
#include "server/store/eviction_order.h"
#include "server/store/name_index.h"
#include "server/store/name_leases.h"
#include "server/store/name_order.h"
#include "server/store/record_slabs.h"
#include "server/store/retired_records.h"
#include "server/store/session.h"
#include "server/store/shared_segments.h"
#include "server/store/spill_books.h"
#include "server/store/use_sampler.h"
#include "server/store/work_queue.h"
#include "store.pb.h"
#include "transport/monotonic.h"

namespace penstock::server {

struct StoreLimits {
  uint64_t memory_bytes = 0;
  uint64_t max_sessions = 4096;
  uint64_t max_tensors = 0;  // with drafts; 0: no limit
  uint64_t max_pins = 0;     // room for them in all sessions' pin tables together; 0: no limit
  uint64_t max_drafts_per_session = 65536;
  bool huge_pages = true;
  bool adopt_always = false;
  std::string node_id{};    // 16 bytes; empty: a random one
  bool in_cluster = false;  // names are served when SetServeUntil has said so
  bool checksum = false;    // tensors that are put here get a CRC32C
  bool directory = false;   // the cluster's directory decides about names: records have room for what it needs (Prepare)
  std::string spill_dir{};    // empty: none
  std::string spill_limit{};  // as --spill_limit
  std::function<void(const std::string&)> say{};  // a line for the node's log; any thread
};

// What a draft is made from. Views into the caller's memory, which must be the node's own (not a client's ring).
struct CreateSpec {
  std::string_view name;
  DType dtype = DType::kInvalid;
  Shape shape;
  uint64_t nbytes = 0;
  uint64_t version = 0;                          // 0 = next
  uint64_t if_version = ~uint64_t{0};            // layout::kAnyVersion
  uint64_t ttl_ns = 0;
  bool keep = true;
  bool soft_pin = false;
  uint16_t replicas = 1;
  std::string_view metadata;                     // encoded (metadata_codec.h), checked by Reserve
  uint64_t request_id = 0;
  bool in_arena = false;                         // a staged put; else in an extent of the session
  bool fetched = false;                          // a copy of another node's tensor: `version` and `created_ns` are the home's
  uint64_t created_ns = 0;
  uint32_t version_term = 0;                     // fetched: the home's
  bool judged_later = false;                     // conditions are for Publish, or for another node
  layout::Purpose purpose = layout::Purpose::kUser;
  std::optional<uint32_t> crc32c{};              // of a copy: what its bytes have to have (FinishChecksum)
};

struct Placed {
  enum class Kind {
    kPlaced,
    kDone,        // this very request was published before (a repetition after a node restart): see `published`
    kNeedExtent,  // open an extent of need_extent_bytes first
    kWait,        // memory is on its way: ask again when WaitForMemory says so
  } kind = Kind::kPlaced;
  layout::RecordRef record = 0;
  uint64_t record_seq = 0;
  Block block;
  uint64_t nbytes = 0;                        // of the block; only with kPlaced
  layout::ChecksumPart* checksum = nullptr;   // FinishChecksum; null: it has none
  uint64_t need_extent_bytes = 0;
};

// Of a draft whose bytes are complete, before it is published: computes their CRC32C, or checks those of a copy. DataLoss: they are
// not what they were. Nothing if `part` is null, or it was done before. Some 10 GB/s.
absl::Status FinishChecksum(layout::ChecksumPart* part, const void* data, uint64_t nbytes);

// A change of a name that other nodes may serve from copies of theirs has to wait until they may not any more.
enum class LeaseRule {
  kRespect,   // IsLeased(status): nothing was changed; call the leases back first (server/remote/lease_recall.h)
  kRecalled,  // they were called back, and no new ones are asked for
};
bool IsLeased(const absl::Status& status);

// Of what is asked for the bytes of a tensor that lie in the spill directory: they are on their way, ask again after a change.
bool IsReturning(const absl::Status& status);

struct Published {
  layout::RecordRef record = 0;
  uint64_t record_seq = 0;
  uint32_t version_term = 0;
  uint64_t version_number = 0;
  uint64_t created_ns = 0;
  bool fetched = false;
  bool leased = false;  // a copy that may be served by name now
  bool spilled = false;  // nobody can pin it: see LookupResident
  NodeUuid home{};  // zero: this node
};

class Store {
 public:
  static constexpr absl::Duration kMemoryWait = absl::Seconds(5);  // the longest that a write waits for memory, unless MakesRoom
  static constexpr absl::Duration kSpillPatience = absl::Seconds(60);

  // Recovers what the context's segments and sessions hold, or starts empty. DataLoss: the catalog there cannot be read at all;
  // nothing was changed.
  static absl::StatusOr<std::unique_ptr<Store>> Open(warden::NodeContext* context, const StoreLimits& limits);
  ~Store();

  // --- sessions ---
  absl::StatusOr<std::shared_ptr<Session>> OpenSession(const SessionPeer& peer, UniqueFd socket);
  absl::Status AddRing(Session& session);
  absl::StatusOr<uint32_t> GrowPins(Session& session);
  absl::Status AddForkedPins(Session& child, std::vector<UniqueFd> chunks);
  void EndSession(uint64_t id);  // everything that it held is freed; idempotent
  std::vector<std::shared_ptr<Session>> Sessions() const;
  std::shared_ptr<Session> FindSession(uint64_t id) const;
  std::shared_ptr<Session> FindSessionByToken(std::string_view token) const;

  // --- segments for clients ---
  void OnSegmentDrop(std::function<void(uint32_t segment)> callback) { shared_.OnDrop(std::move(callback)); }  // SharedSegments::OnDrop
  UniqueFd SegmentDescriptor(uint64_t session, uint32_t segment, SharedSegment* info);  // notes the session as a holder
  // Makes an extent for the session (slow: populated). Not usable before ExtentReady.
  absl::StatusOr<SharedSegment> MakeExtent(uint64_t session, uint64_t bytes);
  UniqueFd UnsealedDescriptor(uint64_t session, uint32_t segment) const;  // for the session that will write it
  absl::Status SealExtent(uint64_t session, uint32_t segment);
  void SegmentUnmapped(uint64_t session, uint32_t segment);
  // Called (any thread, no lock held) with a segment that sessions should unmap, or that is new and worth mapping ahead.
  struct SegmentNotice {
    std::vector<std::shared_ptr<Session>> sessions;
    uint32_t segment;
    bool drop;
  };
  void OnSegmentNotice(std::function<void(const SegmentNotice&)> callback) {
    std::lock_guard lock(mutex_);
    on_segment_notice_ = std::move(callback);
  }

  // --- writing ---
  absl::StatusOr<Placed> Reserve(Session& session, const CreateSpec& spec);
  absl::StatusOr<Published> Publish(Session& session, layout::RecordRef record, uint64_t record_seq, LeaseRule leases = LeaseRule::kRespect);
  absl::Status Abort(Session& session, layout::RecordRef record, uint64_t record_seq);
  // What stays when its session ends: what this one has put bound under `prefix` (empty: nothing), and what any has put bound by
  // the names that are `staged`. Aborted: one of those is gone, or was kept before; nothing was changed.
  struct Kept {
    std::string_view prefix;
    std::vector<std::string> staged;
  };
  absl::Status Keep(Session& session, const Kept& kept);
  // The opposite: what the session has put bound under `prefix`, and nobody has kept, goes now.
  absl::Status DropBound(Session& session, std::string_view prefix);
  // And publishes a draft at the same time, or changes nothing (FailedPrecondition: its name is not this node's own).
  absl::StatusOr<Published> Commit(Session& session, layout::RecordRef draft, uint64_t draft_seq, const Kept& kept,
                                   LeaseRule leases = LeaseRule::kRespect);
  // Takes a draft out of its session's books, so that it stays when the session ends; it must then be published, as what it
  // is or as a copy of what its home made of it, or dropped.
  struct TakenDraft {
    v1::CreateSpec spec;
    layout::RecordRef record = 0;
    uint64_t request_id = 0;
    uint64_t nbytes = 0;
    const char* data = nullptr;
    layout::ChecksumPart* checksum = nullptr;  // FinishChecksum
  };
  absl::StatusOr<TakenDraft> TakeDraft(Session& session, layout::RecordRef record, uint64_t record_seq);
  absl::StatusOr<Published> PublishTaken(layout::RecordRef record, LeaseRule leases = LeaseRule::kRespect);
  absl::StatusOr<Published> PublishAsCopy(layout::RecordRef record, const Published& original);
  void DropTaken(layout::RecordRef record);
  // Whether the draft's name is that of a tensor that this node has as its own.
  bool HasOwnNameOf(layout::RecordRef draft) const;
  std::string DraftName(layout::RecordRef draft) const;  // empty: no such record
  uint64_t DraftBytes(layout::RecordRef draft) const;
  bool WantsChecksum(layout::RecordRef draft) const;  // FinishChecksum has something to do
  // The live tensor of the name if this very request made it; request_id 0 never did.
  std::optional<Published> PublishedBy(std::string_view name, uint64_t request_id) const;
  absl::StatusOr<Published> Delete(std::string_view name, uint64_t version, LeaseRule leases = LeaseRule::kRespect);
  bool HasOwn(std::string_view name) const;  // not a copy
  void DropCopy(std::string_view name);  // of another node's tensor, if there is one
  // How many were deleted; those that others may still serve are left, and told.
  absl::StatusOr<uint64_t> DeletePrefix(std::string_view prefix, std::vector<std::string>* leased);

  // --- records of the cluster's directory (store_cluster.cc) ---
  // With StoreLimits::directory the homes of names decide what lives (server/directory/), and the store keeps what they say. Such
  // a record is named by the operation that made it. The live one of a name is in the index and in lists, as any tensor is; the
  // others are *aside* (directory_book.h), with their blocks, and nobody finds them by name: not even clients without a call, from
  // the moment at which SetDirectoryState returns; views that are open go on. None goes by itself: see OnWantsToGo. Every call
  // leaves the catalog so that the next node process finds either what was before, or what the call made of it.
  struct Preparation {
    directory::OpId op;
    directory::Term prepared_in = 0;  // directory::HeldRecord
    uint64_t created_ns = 0;          // of a copy of another node's record: what that one's RecordInfo says
    uint64_t expires_ns = 0;          // of such a copy; ignored without created_ns
  };
  // From a draft that was taken (TakeDraft, NodeSession::Take): it outlives its session and the node's process. Conditions and
  // version are the home's matter. FailedPrecondition: StoreLimits::directory was not set when it was reserved. AlreadyExists:
  // this node has a record of that operation; the draft is still to be dropped.
  absl::Status Prepare(layout::RecordRef taken, const Preparation& as);
  std::optional<directory::HeldRecord> FindByOp(std::string_view name, directory::OpId op) const;
  // What StoreRecords does. Puts and deletes are not logged: their homes tell them (LogNameEvent). One that is live and older than another
  // of its name (quarantined ones do not count) stays aside; the next process makes it unconfirmed, so that its home is asked.
  void SetDirectoryState(std::string_view name, directory::OpId op, directory::RecordState state, directory::Version version);
  // Logged as EVICT or EXPIRE if it went because of such a wish.
  void DropByOp(std::string_view name, directory::OpId op);
  std::vector<directory::HeldRecord> HeldIn(directory::Partition partition) const;  // in any order
  // Of a record that is or was live here; what clients pin.
  std::optional<Published> PublishedByOp(std::string_view name, directory::OpId op) const;
  // What a client asks for again after a restart of the node, when an earlier process has made a record of the directory of it:
  // a whole put, by its request; publishing its draft.
  std::optional<directory::OpId> OpOfRequest(std::string_view name, const Session& session, uint64_t request_id) const;
  std::optional<directory::OpId> OpOfDraft(const Session& session, layout::RecordRef draft, uint64_t draft_seq) const;
  // What the node's own rules would remove; only the directory can.
  enum class Wish : uint8_t {
    kEvict,   // a cache tensor whose memory is needed: DirectoryNode::Evict
    kExpire,  // its time is over, and nobody is served it any more: a delete of exactly this version
    kDelete,  // it was bound to a session that has ended (layout::kRecordBound): the same
    kDamaged,  // its bytes are not what they were: DirectoryNode::LeaveDamaged; asked each time that Verify finds it
  };
  // Called on the store's work thread, without its lock, and must not wait there; asked again after a second while nothing has
  // become of it.
  void OnWantsToGo(std::function<void(const std::string& name, directory::OpId op, Wish why)> callback) {
    std::lock_guard lock(mutex_);
    on_wants_to_go_ = std::move(callback);
  }

  // --- leases (name_leases.h) ---
  void EndLeases(std::string_view name);  // nobody serves it any more
  bool may_be_leased() const;              // some name
  absl::Time leases_of_the_past() const;  // until when those last that an earlier node process granted; MonotonicNow
  // Of a copy here: it may be served by name until then, if it still is this record.
  void LeaseCopy(layout::RecordRef record, uint64_t record_seq, absl::Time until);
  void EndCopyLease(std::string_view name);

  // --- reading ---
  // After a restart clients find names by the earlier process's index until somebody can hand out the descriptor of the new one.
  void ShowIndex();

  // In a cluster names are served, and changed, until then (CLOCK_MONOTONIC; the header's serve_until_ns); afterwards UNAVAILABLE.
  void SetServeUntil(uint64_t ns) { header_->serve_until_ns.store(ns); }
  absl::Status MayServeNames() const;
  void SetKnowsOthers() { knows_others_.store(true); }  // before, a name could be taken for nobody's
  NodeUuid uuid() const { return std::to_array(header_->node_uuid); }

  absl::StatusOr<Published> Lookup(std::string_view name, uint64_t version);  // a copy of another node's, too
  // For who will pin it. IsReturning, ResourceExhausted (no memory for it), DataLoss (its file does not check out): it was spilled.
  absl::StatusOr<Published> LookupResident(std::string_view name, uint64_t version);
  // For threads that may wait: `attempt` again (a StatusOr), while what it wants is on its way back from the spill directory.
  template <class Attempt>
  auto WhileReturning(Attempt attempt) {
    const absl::Time end = MonotonicNow() + kSpillPatience;
    while (true) {
      const uint64_t epoch = change_epoch();
      auto result = attempt();
      if (!IsReturning(result.status()) || MonotonicNow() >= end) return result;
      WaitForChange(epoch, absl::Seconds(1));
    }
  }
  absl::StatusOr<v1::TensorInfo> Stat(std::string_view name, uint64_t version);
  // Pins a tensor for a reader that has no pin table: its block stays as it is while `hold` lives. The store must outlive it.
  // Hold and HoldByOp fail as LookupResident does.
  struct HeldTensor {
    v1::TensorInfo info;
    const char* data = nullptr;  // info.nbytes() long
    SharedSegment segment;       // that it lies in; only if there are bytes
    std::shared_ptr<const void> hold;
    absl::Duration lease;        // that was granted
  };
  // `lease`: for how long the caller wants to serve it by name; LeaseRecall::Grants must have said that it may.
  absl::StatusOr<HeldTensor> Hold(std::string_view name, uint64_t version, absl::Duration lease = absl::ZeroDuration());
  // The record of a directory's operation in whatever state: other nodes fetch by it, while it is prepared, too.
  absl::StatusOr<HeldTensor> HoldByOp(std::string_view name, directory::OpId op);
  // Records that nobody can tell to be current (RecordState::kQuarantined). NOT_FOUND: there is none of that name and operation.
  void ListQuarantined(const v1::QuarantinedRequest& request, v1::QuarantinedResponse* response) const;
  absl::StatusOr<HeldTensor> HoldQuarantined(std::string_view name, directory::OpId op);
  absl::Status DropQuarantined(std::string_view name, directory::OpId op);
  // A draft, as what it will be when it is published: readers on other hosts read copies while these grow. Its block stays for
  // them even if it is aborted, or its conditions do not hold.
  absl::StatusOr<HeldTensor> HoldDraft(const Session& session, layout::RecordRef draft, uint64_t draft_seq);
  // A live record, a copy, too. NotFound: it is not any more.
  absl::StatusOr<HeldTensor> HoldLive(layout::RecordRef record, uint64_t record_seq);
  // Bytes that came from `where` ("node host:port"), or this node's own (empty), do not have their checksum: counted, and logged by name.
  void NoteDamaged(std::string_view name, std::string_view where);
  // Looks whether a tensor that is held has the bytes that it had; if not, notes it, and lets the directory know. OK if it has no checksum.
  absl::Status Verify(const HeldTensor& held);
  void List(const v1::ListRequest& request, uint64_t byte_limit, v1::ListResponse* response);
  // Events after the cursor; empty when there are none yet.
  void Events(const v1::WatchRequest& request, v1::WatchResponse* response);
  uint64_t last_event() const;
  void LogEvent(v1::Event::Kind kind, std::string_view text);
  // In a cluster: what the home of a name tells; `elsewhere`: that is another node. info: name, version, shape, dtype, nbytes.
  void LogNameEvent(v1::Event::Kind kind, uint64_t time_ns, const v1::TensorInfo& info, bool elsewhere);
  // Blocks until something changed (an event, memory) after `epoch`, or the deadline.
  uint64_t change_epoch() const { return change_epoch_.load(); }
  void WaitForChange(uint64_t epoch, absl::Duration longest);
  // Called after every change while `SetParked(true)`: for waiters that do not block a thread. After a put with the hash of
  // its name, else with 0. The store is locked meanwhile.
  void OnChange(std::function<void(uint64_t name_hash)> callback) {
    std::lock_guard lock(mutex_);
    on_change_ = std::move(callback);
  }
  // Of a name that came elsewhere: who waits for it here looks again.
  void NoteNews(std::string_view name) {
    std::lock_guard lock(mutex_);
    Changed(index_->Hash(name));
  }
  void SetParked(bool parked) { parked_.store(parked); }
  uint64_t NameHash(std::string_view name) const { return index_->Hash(name); }

  // --- memory that changes (server/mutable/): the store only counts it ---
  // ResourceExhausted: the budget does not allow it.
  // `count`: 0 for what only belongs to a channel.
  absl::Status ReserveMutable(uint64_t session, layout::SegmentKind kind, uint64_t bytes, uint64_t count = 1);
  void ReleaseMutable(layout::SegmentKind kind, uint64_t bytes, uint64_t count = 1);
  // Of those kinds, from an earlier node process; channels and regions among them are counted. Once.
  std::vector<SharedSegment> TakeMutableSegments() { return std::move(inherited_mutable_); }
  // Those of a TableLog, from an earlier node process. Once.
  std::vector<SharedSegment> TakeTableSegments() { return std::move(inherited_tables_); }
  SharedSegments& segments() { return shared_; }

  // --- accounting ---
  void Df(v1::DfResponse* response);
  void ListSessions(v1::SessionsResponse* response);
  void ListPins(const v1::PinsRequest& request, v1::PinsResponse* response);

  // Expiry, reclaiming, spare arenas, adoption. Returns when it wants to be called again, if nothing changes before.
  absl::Duration Maintain();

  layout::CatalogHeader* header() const { return header_; }
  uint64_t header_bytes() const { return header_bytes_; }
  UniqueFd HeaderDescriptor() const;
  WorkQueue& work() { return work_; }
  void StopWork();  // and all other threads of the store's; idempotent
  bool MakesRoom() const;  // pages are being made (gigabytes take seconds), or tensors spilled: memory will come
  uint64_t generation() const { return generation_; }
  uint64_t started_ns() const { return started_ns_; }
  std::string page_kind() const;  // of the newest arena
  // What Open found wrong in what an earlier process left, for the log. It is put aside: not served, not used again.
  const std::vector<std::string>& damage() const { return damage_; }

 private:
  Store(warden::NodeContext* context, const StoreLimits& limits);

  // store_recovery.cc
  absl::Status MakeCatalog();
  absl::Status Recover(warden::NodeContext* context);
  struct Unsettled {  // for when every block that is in use is known
    std::vector<layout::RecordRef> publishing;
    std::vector<layout::RecordRef> superseded;
    std::vector<layout::RecordRef> live;   // records of the directory that shall be in the index
    std::vector<layout::RecordRef> twins;  // of records of the directory
    std::vector<layout::RecordRef> spilled;  // that are not the directory's
  };
  void InheritSessions(warden::NodeContext* context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountInheritedMutable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RecoverRecord(layout::RecordRef ref, Unsettled* unsettled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RecoverLive(layout::RecordRef ref, Unsettled* unsettled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecoverDirectory(layout::RecordRef ref, Unsettled* unsettled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakeBlock(const layout::Record* record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // store_damage.cc
  absl::Status CheckHeader(const std::vector<SharedSegment>& chunks);
  std::vector<layout::RecordRef> AdoptCatalog(const std::vector<SharedSegment>& chunks) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveDamaged(std::vector<layout::RecordRef>* refs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetAsideDamaged(layout::RecordRef ref, std::string_view what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  struct Damage {
    layout::RecordRef ref;
    std::string what;
  };
  void Disentangle(const std::vector<layout::RecordRef>& clashing, std::vector<layout::RecordRef>* sound, std::vector<Damage>* damaged)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::pair<size_t, size_t>> Overlaps(const std::vector<layout::RecordRef>& records) const;
  std::vector<size_t> OddOnes(const std::vector<layout::RecordRef>& records) const;
  void NoteDamage(std::string what);
  void TellDamage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsPinnedByAny(layout::RecordRef ref) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // in some table, whatever the sequence

  // store_write.cc
  static absl::Status CheckName(const CreateSpec& spec);
  absl::Status CheckSpec(const CreateSpec& spec) const;
  absl::StatusOr<Placed::Kind> MakeRoomForOne(const CreateSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckConditions(std::string_view name, uint64_t version, uint64_t if_version, layout::RecordRef current) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckCopy(std::string_view name, layout::RecordRef current) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckLeases(std::string_view name, LeaseRule rule) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<layout::Record*> FindDraft(const Session& session, layout::RecordRef ref, uint64_t seq)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  layout::RecordRef FindRepetition(const Session& session, const CreateSpec& spec, layout::RecordRef current)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  layout::RecordRef FindOwn(std::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // 0: none
  void CountTakenOut(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // store_sessions.cc
  absl::Status CheckPinRoom(uint64_t chunks) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // store_bound.cc
  Session* OwnerOf(const layout::Record* record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // null: it has ended
  absl::Status CheckKept(const Session& session, const Kept& kept) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KeepBound(Session& session, const Kept& kept) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveBound(Session& session, std::string_view prefix) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Published> MakeLive(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t FlagsOf(const CreateSpec& spec, const Block& block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FillRecord(layout::Record* record, const CreateSpec& spec) const;  // what no state of it changes
  void WriteDraft(layout::Record* record, const Session& session, const CreateSpec& spec, const Block& block)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void CompletePublish(layout::Record* record, uint64_t last_version);
  static uint64_t ExpiryOf(const layout::Record* record);  // CLOCK_REALTIME; 0: never, or when its home says so
  void CountLive(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UncountLive(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Retire(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // of one that counts as live
  void RetireRecord(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(layout::RecordRef ref, v1::Event::Kind why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeDraft(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeRecord(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeUnlessHeld(layout::RecordRef draft) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Published PublishedOf(layout::RecordRef ref) const;
  void Log(v1::Event::Kind kind, layout::RecordRef ref, uint64_t time_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Changed(uint64_t name_hash = 0) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // store_cluster.cc
  layout::RecordRef FindDirectory(std::string_view name, directory::OpId op) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // 0: none
  layout::RecordRef FindAsideVersion(std::string_view name, uint64_t version) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  directory::HeldRecord HeldOf(layout::RecordRef ref) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void FinishPreparing(layout::Record* record);
  void BecomeLive(layout::RecordRef ref, directory::Version version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsNewestHere(layout::RecordRef ref) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EnterIndex(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StepAside(layout::RecordRef ref, directory::RecordState state, directory::Version version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StepAsideDamaged(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveIndex(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountAside(layout::RecordRef ref, int64_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // 1: it comes, -1: it goes
  void ForgetDirectory(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // in the books, before it is retired
  void LogDrop(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropDirectory(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Ask(layout::RecordRef ref, Wish why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration AskAgain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // when it wants to be called the next time
  uint64_t LeavingBytes(bool aside_only) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // store_memory.cc
  struct BlockWish {
    std::string_view why;
    std::string_view name;
    uint64_t nbytes = 0;
    bool in_arena = false;
    uint64_t session = 0;  // of an extent
  };
  absl::StatusOr<Placed> FindBlock(const BlockWish& wish) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool StartArena(uint64_t nbytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<layout::RecordRef> FindQuarantined(std::string_view name, directory::OpId op) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakeArena(uint64_t bytes);
  void Reclaim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t Evict(uint64_t nbytes, bool* leased) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t EvictColdest(uint64_t nbytes, uint64_t* leaving, bool* leased) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool GiveBackEmptySegments(uint64_t keep_arena_bytes, bool of_live_sessions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t UnmovableBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // no eviction and no spilling frees them
  absl::Status Full(std::string_view what, uint64_t nbytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Holders() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t PinnedBytesOf(const Session& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Adopt(uint32_t segment);
  bool AdoptRecord(layout::RecordRef ref, uint32_t segment);
  void ReplaceBlock(layout::RecordRef from, layout::RecordRef to, const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CopyFields(layout::RecordRef from, layout::RecordRef to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // all but sequence and state
  void TakePlace(layout::RecordRef from, layout::RecordRef to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);   // in index, lists and books
  void LogLocked(v1::Event::Kind kind, std::string_view text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartAdoption() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasLiveTensors(uint32_t extent) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Notify(uint32_t segment, const std::vector<uint64_t>& sessions, bool drop) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // store_spill.cc
  absl::Status OpenSpill();
  absl::Status TakeSpillFiles(bool inherited);
  void AdoptFiles(const std::vector<SpillDir::File>& files) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AdoptFile(const SpillDir::File& file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SettleSpilled(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteFile(const layout::Record* record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Track(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);    // of one that counts as live: it may go when memory is needed
  void Untrack(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Touch(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteUses(absl::Duration since) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsPinned(layout::RecordRef ref) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // as NoteUses has found
  bool IsFreelyLive(layout::RecordRef ref, uint64_t pin) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t MovableBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasSpillRoom(uint64_t file_bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool SpillSome(uint64_t nbytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool BeginSpill(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SayFull(std::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Spill(layout::RecordRef ref, uint64_t pin, uint64_t number, const v1::TensorInfo& info, const char* data);
  absl::Status BecomeSpilled(layout::RecordRef from, uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status BringBack(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsFileOf(layout::RecordRef ref, uint64_t number) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReadBack(layout::RecordRef ref, uint64_t number, const v1::TensorInfo& info);
  absl::StatusOr<Block> AwaitBlock(layout::RecordRef ref, uint64_t number, const v1::TensorInfo& info);
  bool IsDamaged(layout::RecordRef ref) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // its file does not check out
  void CannotBringBack(layout::RecordRef ref, uint64_t number, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveFile(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveFiles();
  void Say(const std::string& line) const;

  // store_read.cc
  absl::StatusOr<Published> FindPublished(std::string_view name, uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // This node's own: not a copy of another's.
  absl::StatusOr<layout::RecordRef> FindLive(std::string_view name, uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  struct ListSlice {  // what is left of a page
    std::string_view prefix;
    std::string after;  // the last name that was listed, or where to begin
    bool inclusive;
    bool with_reserved;
    bool names_only;
    uint64_t items_left;
    uint64_t bytes_left;
  };
  bool ListSome(ListSlice* slice, v1::ListResponse* response);  // whether there is more to do for this page
  void FillInfo(layout::RecordRef ref, v1::TensorInfo* info) const;
  HeldTensor HoldRecord(layout::RecordRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unhold(uint64_t pin);
  std::vector<std::shared_ptr<Session>> SessionList() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const StoreLimits limits_;
  warden::WardenClient* const warden_;
  const uint64_t generation_;
  const uint64_t started_ns_;
  SharedSegments shared_;
  std::atomic<bool> knows_others_;  // of the cluster
  bool recovering_ ABSL_GUARDED_BY(mutex_) = false;  // what was being published is completed, whatever may be served
  std::vector<std::string> damage_;
  std::vector<uint32_t> earlier_indexes_;  // of an earlier process; clients use it until ShowIndex
  std::vector<SharedSegment> inherited_mutable_;
  std::vector<SharedSegment> inherited_tables_;
  layout::CatalogHeader* header_ = nullptr;
  uint32_t header_segment_ = 0;
  uint64_t header_bytes_ = 0;
  std::string uuid_text_;
  std::atomic<bool> parked_{false};
  std::atomic<uint64_t> change_epoch_{1};

  mutable std::mutex mutex_;
  std::function<void(const SegmentNotice&)> on_segment_notice_ ABSL_GUARDED_BY(mutex_);
  std::function<void(uint64_t)> on_change_ ABSL_GUARDED_BY(mutex_);
  std::function<void(const std::string&, directory::OpId, Wish)> on_wants_to_go_ ABSL_GUARDED_BY(mutex_);
  std::condition_variable changed_;
  std::unique_ptr<RecordSlabs> slabs_;
  std::unique_ptr<NameIndex> index_;
  std::unique_ptr<NameOrder> names_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<DirectoryBook> directory_ ABSL_GUARDED_BY(mutex_);
  BlockSpace blocks_ ABSL_GUARDED_BY(mutex_);
  RetiredRecords retired_ ABSL_GUARDED_BY(mutex_);
  HeldPins held_ ABSL_GUARDED_BY(mutex_);
  DeletedVersions deleted_ ABSL_GUARDED_BY(mutex_);
  NameLeases leases_ ABSL_GUARDED_BY(mutex_);
  bool waits_for_leases_ ABSL_GUARDED_BY(mutex_) = false;  // somebody for whom what they hold could be evicted
  EventLog events_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<uint64_t, layout::RecordRef>> expiries_ ABSL_GUARDED_BY(mutex_);    // (expires_ns, record)
  EvictionOrder cache_order_ ABSL_GUARDED_BY(mutex_);  // of the cache class
  UseSampler uses_ ABSL_GUARDED_BY(mutex_);
  struct Asked {
    Wish why;
    absl::Time again;
  };
  absl::flat_hash_map<layout::RecordRef, Asked> asked_ ABSL_GUARDED_BY(mutex_);  // whether they may go; no answer yet
  absl::flat_hash_map<uint32_t, absl::flat_hash_set<layout::RecordRef>> extent_records_ ABSL_GUARDED_BY(mutex_);
  struct OpeningExtent {  // given to its session, not sealed yet
    uint64_t session;
    SharedSegment shared;
    uint64_t reserved_bytes;
  };
  absl::flat_hash_map<uint32_t, OpeningExtent> opening_extents_ ABSL_GUARDED_BY(mutex_);
  bool arena_on_its_way_ ABSL_GUARDED_BY(mutex_) = false;
  bool adoption_on_its_way_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t last_adopted_ ABSL_GUARDED_BY(mutex_) = 0;  // the extent
  std::string page_kind_ ABSL_GUARDED_BY(mutex_) = "4KiB";
  absl::Status arena_failure_ ABSL_GUARDED_BY(mutex_);

  struct MutableCount {
    uint64_t count = 0;
    uint64_t bytes = 0;
  };
  MutableCount& MutableCountOf(layout::SegmentKind kind) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return kind == layout::SegmentKind::kChannel ? channels_ : regions_;
  }
  MutableCount channels_ ABSL_GUARDED_BY(mutex_);
  MutableCount regions_ ABSL_GUARDED_BY(mutex_);
  uint64_t tensor_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t cache_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t draft_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t drafts_ ABSL_GUARDED_BY(mutex_) = 0;  // prepared ones, too
  uint64_t withheld_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t withheld_ ABSL_GUARDED_BY(mutex_) = 0;  // aside, and not prepared
  uint64_t quarantined_ ABSL_GUARDED_BY(mutex_) = 0;  // of them
  uint64_t damaged_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t damaged_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t puts_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t deletes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t evictions_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t expirations_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t checksum_errors_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t adoptions_ ABSL_GUARDED_BY(mutex_) = 0;

  std::unique_ptr<SpillBooks> spill_;  // null: no spill directory
  WorkQueue work_;  // last: its thread ends before what it uses
};

}  // namespace penstock::server
