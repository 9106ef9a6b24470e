// The Penstock client: a process's door to its host's store node.
//
//   auto client = penstock::Client::Connect();                       // the default socket directory
//   auto info   = (*client)->Put("model/wte", penstock::ConstTensorRef::From(span, {50257, 768}));
//   auto view   = (*client)->Get("model/wte");                       // maps it: no call, no copy, no allocation
//   absl::Span<const float> weights = *view->As<float>();
//
// A *view* is read-only access to a tensor and holds a pin while it lives: what it shows never changes, whatever
// writers, deletes, evictions and node restarts do.
//
// Threading:  Client: any thread. TensorView and Draft: one thread at a time; they may be moved between threads.
// Ownership:  views and drafts keep what they need of the session alive; they may outlive the Client.
// Errors:     InvalidArgument (field, value, what is allowed), NotFound, AlreadyExists / Aborted (conditions),
//             ResourceExhausted (store full), Unavailable (node gone; retried inside while it restarts),
//             DeadlineExceeded, FailedPrecondition (layout version).
// Fork:       views stay valid in a forked child, which gets a session of its own; drafts and RDMA stay the parent's.
// Limits:     1 Mi pins a session. A warm Get of a hot name costs tens of nanoseconds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "penstock/box.h"
#include "penstock/channel.h"
#include "penstock/dtype.h"
#include "penstock/region.h"
#include "penstock/shape.h"

namespace penstock {

namespace layout {
enum class Purpose : uint8_t;  // internal
}
namespace client {
class PrivateTensor;  // internal
class InternalNames;  // internal
class Session;     // internal
class Connection;  // internal
class Deadline;    // internal
}  // namespace client

// PEM files, for addresses host:port of nodes with TLS (penstockd --tls_cert): the CA that the node's certificate is
// checked against, a certificate of that CA, and its key. Empty: $PENSTOCK_TLS_CA, $PENSTOCK_TLS_CERT, $PENSTOCK_TLS_KEY,
// else no TLS. All three or none.
struct TlsFiles {
  std::string ca, cert, key;
};

struct ClientOptions {
  std::string address;                            // socket directory or host:port; empty: $PENSTOCK_ADDRESS, then the default
  // Whose store, where `address` is a directory with those of several (penstockd --tenants); empty: with an empty address
  // $PENSTOCK_TENANT, else nobody's.
  std::string tenant{};
  absl::Duration timeout = absl::Seconds(5);      // of connecting, and of every call without a timeout of its own
  std::string label;                              // shown by `penstock sessions`; empty: the program's name
  // "rdma": bytes of other nodes come by RDMA, or the call fails (UNAVAILABLE, a TransportError); empty: by what there is.
  std::string require_transport;
  TlsFiles tls;
};

struct Version {
  uint32_t term = 0;
  uint64_t number = 0;
  friend bool operator==(const Version&, const Version&) = default;
  friend auto operator<=>(const Version&, const Version&) = default;
};

using Metadata = std::map<std::string, std::string>;

struct TensorInfo {
  std::string name;
  Version version;
  DType dtype = DType::kInvalid;
  Shape shape;
  uint64_t nbytes = 0;
  absl::Time created;
  bool keep = true;
  std::optional<absl::Time> expires;
  uint32_t replicas = 1;
  absl::InlinedVector<std::string, 1> nodes;  // uuids of the nodes that hold it
  Metadata metadata;
  std::string immutable;  // "kernel": no client could ever write the block; "writer": only its writer could
  std::optional<uint32_t> crc32c;  // of the bytes, where the node computes it (penstockd --checksum)
  bool soft_pin = false;  // of the cache class: evicted after all that are not
  bool spilled = false;   // the bytes lie in the node's spill directory, and come back when they are asked for
};

// Memory of the caller's that holds a dense (C order) tensor; it must stay valid during the call only.
struct ConstTensorRef {
  const void* data = nullptr;
  DType dtype = DType::kInvalid;
  Shape shape;
  // Byte strides per dimension; empty = C order. Other strides are gathered in one pass.
  std::vector<int64_t> strides;
};

struct PutOptions {
  bool keep = true;                         // false: cache class, evictable
  bool soft_pin = false;                    // with keep = false: evicted after all that are not
  std::optional<absl::Duration> ttl;
  uint64_t version = 0;                     // 0 = next; else larger than the present one
  bool if_absent = false;                   // AlreadyExists otherwise
  std::optional<uint64_t> if_version;       // Aborted unless it is the present version (0 = absent)
  uint32_t replicas = 1;
  Metadata metadata;
};

// Where a shard belongs: its offset in a tensor of shape `whole`.
struct ShardPlace {
  Shape whole;
  Dims offset;
};

// Some elements of a tensor, as a walk over its bytes: those of a box, or every second row.
struct Part {
  uint64_t offset_bytes = 0;
  Shape shape;
  std::vector<int64_t> strides;             // bytes, one per dimension of `shape`
};

struct GetOptions {
  std::optional<Box> box;
  // Instead of `box`, for what depends on the tensor: called once dtype and shape are known. Its
  // error ends the call.
  std::function<absl::StatusOr<Part>(DType dtype, const Shape& shape)> part;
  // Called with what the tensor is before anything is read of it; an error ends the call.
  std::function<absl::Status(DType dtype, const Shape& shape)> check;
  std::optional<uint64_t> version;
  std::optional<absl::Duration> wait;       // for the name to appear
  // Asked now and then while bytes come from another node; true ends the call with CANCELLED.
  std::function<bool()> cancelled;
};

// Read-only access to a tensor, or to a box of it, with a pin of its own.
class TensorView {
 public:
  TensorView() {}  // not "= default": that would first clear all of it, on every get
  TensorView(TensorView&& other) noexcept;
  TensorView& operator=(TensorView&& other) noexcept;
  TensorView(const TensorView&) = delete;
  TensorView& operator=(const TensorView&) = delete;
  ~TensorView() { Release(); }

  bool valid() const { return session_ != nullptr; }
  std::string_view name() const;            // valid while the view is
  Version version() const;
  DType dtype() const;
  const Shape& shape() const { return shape_; }
  absl::Span<const int64_t> strides() const { return {strides_, static_cast<size_t>(shape_.rank())}; }  // bytes
  uint64_t nbytes() const;                  // of what the view shows
  bool contiguous() const;                  // C order without gaps
  const std::byte* data() const { return data_; }
  absl::Span<const std::byte> bytes() const;  // contiguous views only; else empty
  // "map": a tensor of this host's node; "fetch": its copy of another node's; "stream": a part of another node's tensor,
  // read into memory of this process's own; "rdma": the same, by RDMA.
  std::string_view path() const;
  Metadata metadata() const;
  TensorInfo info() const;                  // of the whole tensor

  // The elements as T; InvalidArgument when T is not the dtype's C++ type or the view is not contiguous.
  template <class T>
  absl::StatusOr<absl::Span<const T>> As() const;

  // A view of a box of this view, which keeps the pin too; the box is relative to this view.
  absl::StatusOr<TensorView> Slice(const Box& box) const;
  absl::StatusOr<TensorView> Slice(const Part& part) const;  // of a view of a whole tensor
  // A further view of the same bytes, which keeps the pin too; any thread may release either.
  absl::StatusOr<TensorView> Clone() const;

  // Copy-on-write memory of the same bytes for consumers that have no read-only arrays (torch): writes stay private
  // to this process's mapping, never reach the store, and are dropped when the view is released. Contiguous views of
  // whole tensors only; FailedPrecondition for blocks that share pages with others (below 32 KiB: copy those).
  absl::StatusOr<std::byte*> CopyOnWriteData();

  void Release();  // idempotent; the view is invalid afterwards

 private:
  friend class client::PrivateTensor;
  friend class client::Session;
  friend class Client;
  absl::StatusOr<TensorView> SliceUnchecked(uint64_t offset, const Shape& shape, absl::Span<const int64_t> strides) const;
  absl::Status CheckAs(DType dtype, size_t item_bytes) const;

  client::Session* session_ = nullptr;      // counted reference
  const void* record_ = nullptr;            // layout::Record, immutable while pinned
  const std::byte* data_ = nullptr;
  std::byte* private_data_ = nullptr;       // CopyOnWriteData
  uint32_t pin_ = 0;
  bool whole_ = true;
  Shape shape_;
  int64_t strides_[kMaxRank];  // only the first rank() are set
};

// A tensor that is still being written; invisible until published.
class Draft {
 public:
  Draft() = default;
  Draft(Draft&& other) noexcept;
  Draft& operator=(Draft&& other) noexcept;
  ~Draft() { Abort(); }

  bool valid() const { return session_ != nullptr; }
  void* data() const { return data_; }      // writable until Publish or Abort; nbytes() bytes, C order
  uint64_t nbytes() const { return nbytes_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }

  // Makes the tensor visible whole. The writer's mapping turns read-only: a late write faults instead of changing it.
  absl::StatusOr<TensorInfo> Publish() &&;
  void Abort();  // idempotent

 private:
  friend class Client;
  friend class client::InternalNames;
  friend class client::Session;
  // `publish` asks the node; what it answers completes the info.
  absl::StatusOr<TensorInfo> PublishBy(const std::function<absl::Status(Draft& draft)>& publish) &&;
  client::Session* session_ = nullptr;
  void* data_ = nullptr;
  uint64_t nbytes_ = 0;
  uint32_t record_ = 0;
  uint64_t record_seq_ = 0;
  uint32_t segment_ = 0;
  uint64_t offset_ = 0;
  uint64_t fork_count_ = 0;  // a draft belongs to the process that made it
  bool conflict_if_exists_ = false;
  std::optional<absl::Duration> ttl_;
  absl::Duration timeout_;
  DType dtype_ = DType::kInvalid;
  Shape shape_;
  TensorInfo info_;  // what Publish completes and returns
};

// Memory of the caller's that is registered with the lanes that need it (RDMA), so that ReadInto a part of it registers nothing:
// that costs some 5 ms a GiB each time. Empty once moved from or released.
// The memory must stay valid, and mapped writable, until this is gone and the reads into it are over: a read that is under way
// keeps the registration itself. Any thread; in a forked child it does nothing.
class RegisteredMemory {
 public:
  RegisteredMemory() = default;
  RegisteredMemory(RegisteredMemory&& other) noexcept { *this = std::move(other); }
  RegisteredMemory& operator=(RegisteredMemory&& other) noexcept {
    memory_ = std::exchange(other.memory_, {});
    registration_ = std::move(other.registration_);
    return *this;
  }

  uint64_t nbytes() const { return memory_.size(); }
  // "rdma"; none: no RDMA is in use here, and nothing is registered.
  std::vector<std::string> lanes() const;
  void Release();  // idempotent

 private:
  friend class Client;
  absl::Span<char> memory_;
  std::shared_ptr<const void> registration_;  // shared with the reads that are under way
};

struct GetRequest {
  std::string_view name;
  GetOptions options;
};
struct PutRequest {
  std::string_view name;
  ConstTensorRef tensor;
};
struct TensorEvent {
  enum class Kind { kPut, kDelete, kExpire, kEvict, kNode, kSession, kWarning, kResync };
  Kind kind;
  uint64_t sequence;
  absl::Time time;
  TensorInfo info;  // tensor events: name and version always, the rest when it was a put
  std::string text;
};
// "put", "delete", ...: as the command line and Python say it.
std::string_view EventKindName(TensorEvent::Kind kind);

struct MoveResult {
  std::string from;    // uuid of the node that gave it up; empty: none did
  uint64_t bytes = 0;  // that were copied; 0: it was there
};

struct ListPage {
  std::vector<TensorInfo> items;
  bool more = false;
};

// The events under a prefix, in order. One thread at a time.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // The next events; waits at most `timeout`; empty when there were none. kResync: events were lost, list again.
  virtual absl::StatusOr<std::vector<TensorEvent>> Next(absl::Duration timeout) = 0;
};

struct WatchOptions {
  std::string prefix;
  std::optional<uint64_t> after_sequence;   // of an event seen before; none = from now on
  bool tensors_only = true;
  bool from_start = false;                  // what the node still remembers
};

class Client {
 public:
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ClientOptions& options = {});
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // --- read ---
  absl::StatusOr<TensorView> Get(std::string_view name);  // warm: no call, no allocation
  // The warm part of Get alone: true and `view` filled, which must be invalid before; or false when the answer would
  // need a call, a mapping or a wait. For callers that hold a lock which they would let go first (Python's).
  bool GetWarm(std::string_view name, TensorView* view);
  absl::StatusOr<TensorView> Get(std::string_view name, const GetOptions& options);
  std::vector<absl::StatusOr<TensorView>> GetMany(absl::Span<const GetRequest> requests);
  // Copies a tensor (or a part) into memory of the caller's: C order, exactly its size in bytes. What another node has is
  // read straight into it, by RDMA where both hosts have it; after an error, anything may be in it.
  absl::StatusOr<TensorInfo> ReadInto(std::string_view name, void* out, uint64_t out_bytes, const GetOptions& options = {});
  // For many reads into the same memory. ResourceExhausted: RLIMIT_MEMLOCK is too low.
  absl::StatusOr<RegisteredMemory> Register(absl::Span<char> memory);

  // --- write ---
  absl::StatusOr<TensorInfo> Put(std::string_view name, const ConstTensorRef& tensor, const PutOptions& options = {});
  std::vector<absl::StatusOr<TensorInfo>> PutMany(absl::Span<const PutRequest> requests, const PutOptions& options = {});
  // One shard of a tensor that several sessions put together, on any of the nodes: visible, whole, once its shards cover it. The call whose
  // shard is the last one copies them together and returns what it has published; the others return nothing. Until then shards go with the
  // session that has put them. All must agree on dtype, shape and options (no if_absent, if_version, replicas). The same box of several
  // sessions counts once. options.version: tells rounds apart (training steps); without it, a session may put a box again only when the
  // tensor is there. InvalidArgument: shards that overlap or disagree. Aborted: the box is there already, the version is taken.
  absl::StatusOr<std::optional<TensorInfo>> PutShard(std::string_view name, const ConstTensorRef& local, const ShardPlace& place,
                                                     const PutOptions& options = {});
  absl::StatusOr<Draft> Create(std::string_view name, DType dtype, const Shape& shape, const PutOptions& options = {});
  absl::StatusOr<bool> Delete(std::string_view name, std::optional<uint64_t> version = std::nullopt);
  absl::StatusOr<uint64_t> DeletePrefix(std::string_view prefix);
  // Makes the node `to` (its uuid, or the beginning of it) hold the tensor; then the fullest of the others that hold it gives it up, unless
  // fewer would be left than `replicas`, or `copy`. NotFound: no such tensor or node. FailedPrecondition: no cluster, or `to` drains.
  // ResourceExhausted: `to` is full. DeadlineExceeded: it is still on its way, and goes on.
  absl::StatusOr<MoveResult> Move(std::string_view name, std::string_view to, bool copy = false,
                                  absl::Duration timeout = absl::InfiniteDuration());

  // --- look ---
  absl::StatusOr<bool> Exists(std::string_view name);
  absl::StatusOr<TensorInfo> Stat(std::string_view name, std::optional<uint64_t> version = std::nullopt);
  absl::StatusOr<ListPage> List(std::string_view prefix, std::string_view after = {}, uint32_t limit = 1000);
  absl::StatusOr<uint32_t> LongestPrefix(absl::Span<const std::string> names);  // leading names that exist

  // --- wait ---
  absl::StatusOr<TensorInfo> Wait(std::string_view name, uint64_t version, absl::Duration timeout);
  absl::StatusOr<std::unique_ptr<Watcher>> Watch(const WatchOptions& options);
  // The tensor, made by `make` if it is missing: at most one caller on this host runs `make` for a name at a time (a
  // kernel lock that dies with its holder), the others wait for the tensor. `make` puts it under `name`.
  absl::StatusOr<TensorView> GetOrCreate(std::string_view name, const std::function<absl::Status(Client&)>& make,
                                         absl::Duration timeout);

  // --- memory that changes (channel.h, region.h) ---
  // As its writer. AlreadyExists: somebody writes it.
  absl::StatusOr<ChannelWriter> OpenChannel(std::string_view name, DType dtype, const Shape& shape, const ChannelOptions& options = {});
  absl::StatusOr<ChannelReader> Subscribe(std::string_view name, const SubscribeOptions& options = {});
  absl::StatusOr<Region> OpenRegion(std::string_view name, const RegionOptions& options = {});

  // --- the node: serialized penstock.v1 messages, for the CLI and for language bindings ---
  // method: penstock::rpc::Method. request/response: serialized messages of store.proto.
  absl::StatusOr<std::string> Call(uint32_t method, std::string_view request);

  const std::string& address() const;
  uint64_t session_id() const;

 private:
  friend class client::InternalNames;
  explicit Client(std::shared_ptr<client::Connection> connection);
  absl::StatusOr<Draft> CreateFor(layout::Purpose purpose, std::string_view name, DType dtype, const Shape& shape,
                                  const PutOptions& options);
  absl::StatusOr<std::optional<TensorView>> GetElsewhere(std::string_view name, const GetOptions& options);
  absl::StatusOr<std::optional<TensorInfo>> ReadElsewhere(std::string_view name, void* out, uint64_t out_bytes,
                                                          const GetOptions& options);
  absl::StatusOr<TensorView> GetSlow(std::string_view name, uint64_t version, const client::Deadline& deadline);
  // Shared with the watchers, which may outlive the Client.
  std::shared_ptr<client::Connection> connection_;
};

// The C++ types that As<T> accepts for each dtype (bf16, fp8 and fp4 are read as their bits).
template <class T>
struct DTypeFor;

template <> struct DTypeFor<bool> { static constexpr DType value = DType::kBool; };
template <> struct DTypeFor<int8_t> { static constexpr DType value = DType::kI8; };
template <> struct DTypeFor<int16_t> { static constexpr DType value = DType::kI16; };
template <> struct DTypeFor<int32_t> { static constexpr DType value = DType::kI32; };
template <> struct DTypeFor<int64_t> { static constexpr DType value = DType::kI64; };
template <> struct DTypeFor<uint8_t> { static constexpr DType value = DType::kU8; };
template <> struct DTypeFor<uint16_t> { static constexpr DType value = DType::kU16; };
template <> struct DTypeFor<uint32_t> { static constexpr DType value = DType::kU32; };
template <> struct DTypeFor<uint64_t> { static constexpr DType value = DType::kU64; };
template <> struct DTypeFor<float> { static constexpr DType value = DType::kF32; };
template <> struct DTypeFor<double> { static constexpr DType value = DType::kF64; };

template <class T>
absl::StatusOr<absl::Span<const T>> TensorView::As() const {
  if (absl::Status s = CheckAs(DTypeFor<T>::value, sizeof(T)); !s.ok()) return s;
  return absl::MakeConstSpan(reinterpret_cast<const T*>(data_), nbytes() / sizeof(T));
}

}  // namespace penstock
