// The catalog as it lies in shared memory: header, records and the hash index.
//
// The node writes it, every local client maps it read-only and finds tensors in it without a call. This file is the
// contract between the two: plain structs, fixed offsets, no absolute pointers, one layout version.
//
//   header segment   CatalogHeader, once per node
//   record chunks    4 MiB each: a ChunkHeader (4 KiB), then records in slabs of 64 KiB; the records of one slab have
//                    one stride for ever, so the place where a record starts never becomes the inside of another
//   index segment    IndexHeader, then a power of two of 8-byte entries, open addressing, linear probing
//
// A record is found by its RecordRef (position in units of 64 bytes; chunk = ref >> 16). Its sequence is odd while it
// is live. Publish and retire are one 8-byte store each. The index is only a hint: it may be behind, and is replaced by
// a bigger one at any time, so a reader trusts only what it reads from a record that it has pinned:
//
//   probe index -> load seq (odd?) -> exchange PinWord(ref, seq) into an own pin slot -> load seq again, unchanged?
//   -> compare the name -> read the record and its block until the pin is cleared
//
// All four accesses are seq_cst (DESIGN.md section 3; tests/model checks it exhaustively).
//
// Threading:  one writer (the node, under its store mutex), any number of readers in any process.
// Ownership:  segments belong to the warden; they outlive the node process.
// Errors:     a client that finds another magic or layout version refuses with FAILED_PRECONDITION.
// Limits:     4096 chunks = 16 GiB of records; 2^32 references.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock::layout {

inline constexpr uint64_t kCatalogMagic = 0x314b434f54534e50;  // "PNSTOCK1"
inline constexpr uint32_t kLayoutVersion = 6;

using RecordRef = uint32_t;  // 0 = none
inline constexpr uint64_t kRecordUnit = 64;
inline constexpr uint64_t kLeaseBase = uint64_t{1} << 62;  // expires_ns of a copy: kLeaseBase + CLOCK_MONOTONIC
inline constexpr uint64_t kChunkBytes = uint64_t{4} << 20;
inline constexpr uint32_t kUnitsPerChunk = kChunkBytes / kRecordUnit;  // 65536
inline constexpr uint32_t kMaxChunks = 4096;
inline constexpr uint64_t kSlabBytes = uint64_t{64} << 10;
inline constexpr uint32_t kSlabsPerChunk = kChunkBytes / kSlabBytes;  // 64
inline constexpr uint64_t kChunkHeaderBytes = 4096;                   // taken from slab 0

constexpr uint32_t ChunkOf(RecordRef ref) { return ref / kUnitsPerChunk; }
constexpr uint64_t ByteInChunk(RecordRef ref) { return (ref % kUnitsPerChunk) * kRecordUnit; }

struct CatalogHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t header_bytes;  // sizeof(CatalogHeader)
  uint8_t node_uuid[16];
  uint64_t hash_key[2];  // keys HashName; made at random by the node, so that names cannot be chosen to collide
  alignas(64) std::atomic<uint64_t> node_generation;  // grows with every start of the node process
  std::atomic<uint64_t> serve_until_ns;  // CLOCK_MONOTONIC; gets by name are valid before it; UINT64_MAX without etcd
  std::atomic<uint32_t> index_segment;   // segment id of the current index
  std::atomic<uint32_t> chunk_count;
  std::atomic<uint64_t> live_count;      // live records
  std::atomic<uint64_t> version_floor;   // a name that has no record gets a version above it
  std::atomic<uint64_t> max_deleted_version;  // node only: a new node takes it as its floor
  std::atomic<uint64_t> leased_until_ns;  // node only, CLOCK_MONOTONIC: until when nodes elsewhere may serve names of this one
  std::atomic<uint64_t> last_session;  // node only: ids are never given twice, for a request is known by its session's and its own
  alignas(64) std::atomic<uint32_t> chunk_segment[kMaxChunks];  // segment ids of the record chunks
  alignas(64) std::atomic<uint32_t> mutable_turns;  // grows when a channel or region gets its name: who waits for one sleeps on it
  std::atomic<uint64_t> cluster_id;       // node only: of the cluster whose records of the directory these are; 0: of none yet
  std::atomic<uint64_t> directory_since;  // node only: the view since which their states are right (server/directory/records.h)
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);
static_assert(offsetof(CatalogHeader, node_generation) == 64);
static_assert(offsetof(CatalogHeader, index_segment) == 80);
static_assert(offsetof(CatalogHeader, chunk_segment) == 128);
static_assert(offsetof(CatalogHeader, mutable_turns) == 128 + 4 * kMaxChunks);
static_assert(offsetof(CatalogHeader, cluster_id) == 136 + 4 * kMaxChunks);
static_assert(sizeof(CatalogHeader) == 192 + 4 * kMaxChunks);

struct ChunkHeader {
  uint64_t magic;
  uint32_t layout_version;
  uint32_t chunk_number;
  uint16_t slab_stride_units[kSlabsPerChunk];  // node only (recovery): record stride of each slab, 0 = unused
};
static_assert(sizeof(ChunkHeader) <= kChunkHeaderBytes);

enum RecordFlags : uint8_t {
  kRecordKeep = 1,             // never evicted
  kRecordKernelImmutable = 2,  // the block lies in an arena, which no client could ever write
  kRecordFetched = 4,          // a copy of a tensor whose home is another node
  kRecordPrivate = 8,          // never in a catalog: a client's own (client/private_tensor.h)
  kRecordBound = 16,           // goes with the session that made it, unless that keeps it first (a member of a snapshot)
  kRecordDirectory = 32,       // has room for a DirectoryPart
  kRecordSoftPin = 64,         // of the cache class: evicted after all that are not
  kRecordChecksum = 128,       // has a ChecksumPart
};

// State of a record, for the node (recovery). Readers look only at the sequence. Order of the stores: publish =
// kPublishing, fields, seq odd, kLive; retire = seq even, kRetired. So (kLive, even) is retired, an odd one is live,
// and a node that finds (kPublishing, even) completes the publish, whose conditions were checked.
// kPrepared is a draft that is complete, of an operation of the cluster's directory: it outlives its session and the node's
// process. Its sequence is even until the directory says that it is live, as is the one of a tensor that the directory gave
// up before that; what its cluster_state says counts, whatever the sequence is.
// In a draft version_number holds the requested version (0 = next), created_ns the condition (kAnyVersion = none) and
// expires_ns the time to live.
enum class RecordState : uint8_t { kFree = 0, kDraft = 1, kLive = 2, kRetired = 3, kPublishing = 4, kPrepared = 5 };

// Followed by int64_t shape[rank], the name, the metadata (MetadataEntry by MetadataEntry), the DirectoryPart and the
// ChecksumPart if it has them.
struct alignas(64) Record {
  std::atomic<uint64_t> seq;  // odd = live; grows by 1 with publish and with retire
  uint64_t name_hash;         // HashName with the header's key
  uint64_t version_number;
  uint32_t version_term;
  uint32_t segment;      // where the block is; 0 when nbytes is 0
  uint64_t offset;       // of the block in its segment, in bytes
  uint64_t nbytes;       // of the tensor
  uint64_t created_ns;   // CLOCK_REALTIME at publish
  uint16_t name_bytes;
  uint16_t metadata_bytes;
  uint8_t dtype;  // penstock::DType
  uint8_t rank;
  uint8_t flags;  // RecordFlags
  std::atomic<uint8_t> state;  // RecordState; node only
  // 64
  // CLOCK_REALTIME; 0 = never. Of a copy: kLeaseBase + the time (CLOCK_MONOTONIC) until which it may be served by name
  // without asking its home; kLeaseBase alone: not without asking, as is a tensor that the directory has put aside. The only
  // field that changes while the record is live.
  std::atomic<uint64_t> expires_ns;
  uint64_t request_id;  // of the request that made it: a repeated request after a node restart is recognised
  uint32_t owner_session;
  uint16_t replicas;
  std::atomic<uint8_t> cluster_state;  // node only; 0 = not the directory's, else directory::RecordState + 1
  uint8_t reserved;
};
static_assert(offsetof(Record, segment) == 28 && offsetof(Record, nbytes) == 40);
static_assert(offsetof(Record, state) == 63 && offsetof(Record, expires_ns) == 64);
inline constexpr uint64_t kRecordFixedBytes = 88;
static_assert(offsetof(Record, cluster_state) == 86 && offsetof(Record, reserved) + 1 == kRecordFixedBytes);

struct MetadataEntry {  // then key, then value; no padding
  uint16_t key_bytes;
  uint16_t value_bytes;
};
static_assert(sizeof(MetadataEntry) == 4);

inline const int64_t* RecordShape(const Record* r) {
  return reinterpret_cast<const int64_t*>(reinterpret_cast<const char*>(r) + kRecordFixedBytes);
}
inline const char* RecordName(const Record* r) {
  return reinterpret_cast<const char*>(r) + kRecordFixedBytes + 8 * uint64_t{r->rank};
}
inline std::string_view NameOf(const Record* r) { return {RecordName(r), r->name_bytes}; }
inline const char* RecordMetadata(const Record* r) { return RecordName(r) + r->name_bytes; }
constexpr uint64_t RecordBytes(uint32_t rank, uint32_t name_bytes, uint32_t metadata_bytes) {
  return kRecordFixedBytes + 8 * uint64_t{rank} + name_bytes + metadata_bytes;
}

// What the node keeps of a record of the cluster's directory. It lies behind all that readers look at, so that a get touches
// no more of the cache than without it; node only.
struct DirectoryPart {
  uint64_t op_session;   // directory::OpId of the put that made it
  uint64_t op_count;
  uint64_t prepared_in;  // directory::HeldRecord
  uint64_t created_ns;   // what the record's own field says from kPrepared on (in a draft that one holds the condition)
  uint64_t expires_ns;   // CLOCK_REALTIME, 0 = never: what the record's own field says while it is served by name
  uint32_t place;        // this and the next: server/store/directory_book.h, anew in every process
  uint32_t aside;
};
static_assert(sizeof(DirectoryPart) == 48 && alignof(DirectoryPart) == 8);
// CRC32C (RFC 3720, Castagnoli) of the tensor's bytes. It does not change once the record is live.
enum class ChecksumState : uint32_t { kNone = 0, kKnown = 1, kExpected = 2 };  // kExpected: of a copy that has not been checked yet
struct ChecksumPart {
  uint32_t crc32c;
  ChecksumState state;
};
static_assert(sizeof(ChecksumPart) == 8 && alignof(ChecksumPart) <= 8);
// Where the parts begin, behind a record of so many bytes.
constexpr uint64_t PartsOffset(uint64_t record_bytes) { return (record_bytes + 7) / 8 * 8; }
constexpr uint64_t PartsBytes(uint8_t flags) {
  return (flags & kRecordDirectory ? sizeof(DirectoryPart) : 0) + (flags & kRecordChecksum ? sizeof(ChecksumPart) : 0);
}
inline uint64_t RecordBytes(const Record* r) { return RecordBytes(r->rank, r->name_bytes, r->metadata_bytes); }
// Of the whole record, with its parts.
inline uint64_t RecordBytesOf(const Record* r) {
  const uint64_t parts = PartsBytes(r->flags);
  return parts == 0 ? RecordBytes(r) : PartsOffset(RecordBytes(r)) + parts;
}
// Of a record that has a DirectoryPart.
inline DirectoryPart* DirectoryPartOf(Record* r) {
  return reinterpret_cast<DirectoryPart*>(reinterpret_cast<char*>(r) + PartsOffset(RecordBytes(r)));
}
inline const DirectoryPart* DirectoryPartOf(const Record* r) { return DirectoryPartOf(const_cast<Record*>(r)); }
// Null: it has none.
inline ChecksumPart* ChecksumPartOf(Record* r) {
  if (!(r->flags & kRecordChecksum)) return nullptr;
  return reinterpret_cast<ChecksumPart*>(reinterpret_cast<char*>(DirectoryPartOf(r)) + PartsBytes(r->flags & kRecordDirectory));
}
inline const ChecksumPart* ChecksumPartOf(const Record* r) { return ChecksumPartOf(const_cast<Record*>(r)); }
inline std::optional<uint32_t> ChecksumOf(const Record* r) {
  const ChecksumPart* part = ChecksumPartOf(r);
  if (part == nullptr || part->state != ChecksumState::kKnown) return std::nullopt;
  return part->crc32c;
}

// Index: entry = upper 32 bits of the hash << 32 | RecordRef; 0 = empty; kIndexTombstone = removed, probe on.
struct IndexHeader {
  uint64_t magic;
  uint64_t mask;  // capacity - 1
  uint64_t reserved[6];
};
static_assert(sizeof(IndexHeader) == 64);
inline constexpr uint64_t kIndexTombstone = uint64_t{1} << 32;
constexpr uint64_t IndexEntry(uint64_t hash, RecordRef ref) {
  return (hash & 0xffffffff00000000ull) | ref;
}
inline std::atomic<uint64_t>* IndexEntries(IndexHeader* h) {
  return reinterpret_cast<std::atomic<uint64_t>*>(h + 1);
}
inline const std::atomic<uint64_t>* IndexEntries(const IndexHeader* h) {
  return reinterpret_cast<const std::atomic<uint64_t>*>(h + 1);
}

// Pin tables: chunks of 64 KiB, 8192 words each; word 0 = free.
inline constexpr uint64_t kPinChunkBytes = uint64_t{64} << 10;
inline constexpr uint32_t kPinsPerChunk = kPinChunkBytes / 8;
inline constexpr uint32_t kMaxPinChunks = 128;  // 1 Mi pins a session
constexpr uint64_t PinWord(RecordRef ref, uint64_t seq) {
  return (uint64_t{ref} << 32) | static_cast<uint32_t>(seq);
}

}  // namespace penstock::layout
