// Session: everything that one connection to one node consists of.
//
// Client, views and drafts hold counted references to it, so that views may outlive their Client;
// the last one closes it, which is what the node sees as the end of the session. A session whose
// store has ended stays as it is (its views remain valid memory) and refuses new work; the Client
// opens another one.
//
// Threading:  any thread
// Ownership:  counted by hand (Ref, Unref): a reference costs one atomic add, on the path of every get
// Errors:     UNAVAILABLE once ended(); those of the parts
// Limits:     one thread, two descriptors, 8 MiB of ring, and what the segments take
#ifndef PENSTOCK_CLIENT_SESSION_SESSION_H_
#define PENSTOCK_CLIENT_SESSION_SESSION_H_

#include <penstock/client.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session/catalog_reader.h"
#include "client/session/deadline.h"
#include "client/session/fd_channel.h"
#include "client/session/pin_table.h"
#include "client/session/ring_client.h"
#include "client/session/segment_map.h"
#include "proto/layout/ring_layout.h"
#include "proto/rpc_methods.h"

namespace penstock::client {

class RemoteReads;

// A record that a slot of the pin table keeps; or with kNoSlot, one of a PrivateTensor.
struct PinnedRecord {
  const layout::Record* record = nullptr;
  uint32_t slot = PinTable::kNoSlot;
};

// NOT_FOUND; version 0: of any version.
absl::Status NoSuchTensor(std::string_view name, uint64_t version);

class Session {
 public:
  // Connects to the first store of `address` that answers (address.h). The caller holds the one
  // reference.
  static absl::StatusOr<Session*> Open(const ClientOptions& options, const Deadline& deadline);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void Ref() { references_.fetch_add(1, std::memory_order_relaxed); }
  void Unref() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  Session* previous = nullptr;  // of the same Connection, which alone uses it

  uint64_t id() const { return id_.load(std::memory_order_relaxed); }
  const std::string& address() const { return address_; }
  bool require_rdma() const { return require_rdma_; }
  bool ended() const { return ended_.load(std::memory_order_acquire); }

  CatalogReader& catalog() { return catalog_; }
  SegmentMap& segments() { return segments_; }
  PinTable& pins() { return pins_; }
  RingClient& ring() { return ring_; }
  FdChannel& fd_channel() { return channel_; }

  // --- read (acquire.cc) ---
  // Pins the present version of a tensor, or exactly `version` when it is not 0. Asks the node for
  // what the catalog does not show.
  absl::StatusOr<PinnedRecord> Acquire(std::string_view name, uint64_t version,
                                       const Deadline& deadline);
  struct Wanted {
    std::string_view name;
    uint64_t version = 0;
  };
  // The same for many: what the node must be asked for is asked for before any answer is awaited.
  // What has not come `timeout` after the last one that came has failed, together.
  std::vector<absl::StatusOr<PinnedRecord>> AcquireMany(absl::Span<const Wanted> wanted,
                                                        absl::Duration timeout);
  // The same from the catalog alone; nothing when the node would have to be asked.
  std::optional<PinnedRecord> AcquireHere(std::string_view name, uint64_t version);
  // Whether the catalog alone may answer for this record: it has not expired, the node holds its
  // lease, and so does a copy of another node's tensor.
  bool MayServe(const layout::Record* record) const {
    const uint64_t serve_until =
        catalog_.header().serve_until_ns.load(std::memory_order_relaxed);
    if (serve_until == UINT64_MAX && record->expires_ns == 0) return true;
    return MayServeNow(record, serve_until);
  }
  // The same for one who wants this version, unless it is 0: that needs no lease, neither the copy's nor the node's.
  bool MayServe(const layout::Record* record, uint64_t version) const {
    if (version == 0) return MayServe(record);
    if (record->version_number != version) return false;
    return (record->flags & layout::kRecordFetched) != 0 || IsFresh(record);
  }
  void Release(const PinnedRecord& pinned) {
    if (pinned.slot == PinTable::kNoSlot) return ReleasePrivate(pinned.record);
    if (!pins_.Unshare(pinned.slot)) return;  // other views of this pin live on
    pins_.Clear(pinned.slot);
    pins_.Give(pinned.slot);
  }
  // Where the record's bytes are mapped here.
  absl::StatusOr<const std::byte*> DataOf(const layout::Record* record, const Deadline& deadline);
  // Makes `view`, which is invalid, show the whole record; takes over the pin.
  void FillView(TensorView* view, const PinnedRecord& pinned, const std::byte* data);

  // --- ask the node (requests.cc) ---
  // A block of the ring; opens the ring first in a forked child.
  absl::StatusOr<RingRequest> Request(const RingRequestSizes& sizes, const Deadline& deadline);
  // What every request needs before it: session alive, ring there.
  absl::Status PrepareRing(const Deadline& deadline);
  // Filled, not yet submitted.
  absl::StatusOr<RingRequest> LookupRequest(layout::RingOp op, std::string_view name, uint64_t version,
                                            const Deadline& deadline);
  absl::StatusOr<layout::LookupResponse> Lookup(layout::RingOp op, std::string_view name,
                                                uint64_t version, const Deadline& deadline);
  RemoteReads& remote_reads() { return *remote_reads_; }
  void Post(rpc::Method method, std::string_view message);  // a call whose answer nobody waits for
  absl::StatusOr<std::string> Call(rpc::Method method, std::string_view message,
                                   const Deadline& deadline);
  // Reserves a draft; opens extents as needed. `fill` writes the request into a block.
  absl::StatusOr<layout::CreateResponse> Reserve(
      uint32_t request_bytes, const std::function<void(char* body)>& fill,
      const Deadline& deadline);
  absl::StatusOr<layout::CreateResponse> Publish(layout::RecordRef record, uint64_t seq,
                                                 const Deadline& deadline);
  void AbortDraft(layout::RecordRef record, uint64_t seq);  // does not wait

  // A descriptor of an own open file of the catalog header, for locks that die with their holder.
  absl::StatusOr<UniqueFd> OpenLockFile() const;

  // --- fork (fork.cc) ---
  struct Fork;

 private:
  Session(std::string address, const ClientOptions& options);
  ~Session();

  absl::Status Connect(const Deadline& deadline);
  absl::Status TakeWelcome(FdReply welcome, bool first);
  absl::StatusOr<Mapping> GrowPins(uint32_t chunk);
  absl::StatusOr<PinnedRecord> TakeFound(const Wanted& wanted, RingRequest request,
                                         const Deadline& deadline);
  bool MayServeNow(const layout::Record* record, uint64_t serve_until) const;
  bool IsFresh(const layout::Record* record) const;
  static void ReleasePrivate(const layout::Record* record);  // private_tensor.cc
  void OnEnded();
  absl::Status EndedError() const;

  const std::string address_;
  const std::string label_;
  const bool require_rdma_;
  std::atomic<uint32_t> references_{1};
  std::atomic<bool> ended_{false};
  std::atomic<uint64_t> id_{0};

  FdChannel channel_;
  SegmentMap segments_;
  CatalogReader catalog_;
  PinTable pins_;
  RingClient ring_;
  UniqueFd header_fd_;
  UniqueFd unread_socket_;     // between Connect and TakeWelcome
  std::mutex open_ring_mutex_;  // one OpenRing at a time
  std::mutex extent_mutex_;     // one OpenExtent at a time
  const std::unique_ptr<RemoteReads> remote_reads_;
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_SESSION_H_
