// PinTable: the pins of one session, words in memory that client and node share.
//
// A view holds one slot. Writing PinWord(record, seq) into it and then finding the record's
// sequence unchanged is what keeps a record and its block alive (catalog_layout.h); clearing it lets
// go. Free slots are cached per thread, so that taking one is neither a lock nor an allocation. A
// thread takes them in turn, and who lets go clears the word's lowest bit only: the node, which is
// never told of a get, sees by what is left there what was used last (server/store/use_sampler.h).
//
// Threading:  any thread. A slot belongs to who took it. Freeze/Thaw: the thread that forks.
// Ownership:  owns the mappings of the chunks, which the node makes and sizes
// Errors:     RESOURCE_EXHAUSTED at 1 Mi pins; those of the node when it refuses a further chunk
// Limits:     8192 slots a chunk, 128 chunks; a thread keeps at most 64 free slots for itself
#ifndef PENSTOCK_CLIENT_SESSION_PIN_TABLE_H_
#define PENSTOCK_CLIENT_SESSION_PIN_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/layout/catalog_layout.h"
#include "transport/segment/mapping.h"
#include "transport/unique_fd.h"

namespace penstock::client {

class PinTable {
 public:
  static constexpr uint32_t kNoSlot = ~uint32_t{0};
  // Bits of gate(): a reader that finds one set after its exchange takes the pin back.
  static constexpr uint32_t kFrozen = 1;  // the table is being copied for a forked child
  static constexpr uint32_t kEnded = 2;   // the session is over: no new pins

  using Grow = std::function<absl::StatusOr<Mapping>(uint32_t chunk)>;

  explicit PinTable(Grow grow);
  PinTable(const PinTable&) = delete;
  PinTable& operator=(const PinTable&) = delete;
  ~PinTable();

  void AddFirstChunk(Mapping chunk);

  // A free slot of this thread's; kNoSlot: ask TakeFree or TakeSlow.
  uint32_t TryTake() {
    Cache* cache = thread_cache_;
    if (cache == nullptr || cache->serial != serial_ || cache->count == 0) return kNoSlot;
    return cache->Pop();
  }
  // Takes more free slots over into this thread's cache, under a lock; kNoSlot when there are none.
  uint32_t TakeFree();
  // TakeFree, and a further chunk from the node when there are none.
  absl::StatusOr<uint32_t> TakeSlow();

  // The slot must pin nothing: see Clear.
  void Give(uint32_t slot) {
    Cache* cache = thread_cache_;
    if (cache != nullptr && cache->serial == serial_ && cache->count < kCacheSlots) {
      cache->Push(slot);
    } else {
      GiveSlow(slot);
    }
  }

  std::atomic<uint64_t>& Word(uint32_t slot) const {
    return chunks_[slot / layout::kPinsPerChunk].load(
        std::memory_order_acquire)[slot % layout::kPinsPerChunk];
  }

  // Ends the pin, if there is one; what it was of stays to be seen.
  void Clear(uint32_t slot) const {
    std::atomic<uint64_t>& word = Word(slot);
    word.store(word.load(std::memory_order_relaxed) & ~uint64_t{1}, std::memory_order_release);
  }

  // One more view of the record that `slot` pins. A pin is never copied to another slot: the node's
  // scan could read that one before the copy and this one after its end (tests/model, pin-moved).
  void Share(uint32_t slot) { Extra(slot).fetch_add(1, std::memory_order_relaxed); }
  // A view of `slot` ends. True for the last one, which clears the word and gives the slot back.
  bool Unshare(uint32_t slot) {
    std::atomic<uint32_t>& extra = Extra(slot);
    if (extra.load(std::memory_order_acquire) == 0) return true;  // nobody else could share it now
    if (extra.fetch_sub(1, std::memory_order_acq_rel) != 0) return false;
    extra.store(0, std::memory_order_relaxed);
    return true;
  }

  // 0 = pins count. Read it (seq_cst) after the exchange: either the reader sees the bit, or the
  // copier sees the pin.
  uint32_t gate() const { return gate_.load(std::memory_order_seq_cst); }
  void End() { gate_.fetch_or(kEnded); }
  // Waits until the table is not frozen. False when the session is over.
  bool WaitOpen();

  // --- fork: the forking thread holds RegistryMutex(), then mutex() of each table ---
  static std::mutex& RegistryMutex();
  std::mutex& mutex() { return mutex_; }
  void Freeze() { gate_.fetch_or(kFrozen); }
  void Thaw();
  bool AnyPinned() const;
  uint32_t chunk_count() const { return chunk_count_.load(std::memory_order_acquire); }
  // memfds with copies of the chunks, sealed against growing and shrinking. The table is frozen.
  absl::StatusOr<std::vector<UniqueFd>> CopyChunks() const;
  // In the child, with mutex() held: the copies take the place of the parent's chunks. Without
  // copies (none, or mmap fails) the child gets private words that nobody reads; false then.
  bool ChildReset(const std::vector<UniqueFd>& copies);

 private:
  static constexpr uint32_t kCacheSlots = 64;
  std::atomic<uint32_t>& Extra(uint32_t slot) const {
    return extra_[slot / layout::kPinsPerChunk].load(
        std::memory_order_acquire)[slot % layout::kPinsPerChunk];
  }
  void AddExtra(uint32_t chunk);
  struct Cache {  // first come, first taken
    uint64_t serial = 0;
    uint32_t first = 0;
    uint32_t count = 0;
    std::array<uint32_t, kCacheSlots> slots;
    void Push(uint32_t slot) { slots[(first + count++) % kCacheSlots] = slot; }
    uint32_t Pop() {
      --count;
      return slots[first++ % kCacheSlots];
    }
  };
  struct CacheOwner;  // returns the slots when the thread ends
  void GiveSlow(uint32_t slot);
  static void Flush(Cache* cache);
  static Cache* MakeThreadCache();
  void RebuildFree();

  // constinit: without it every access asks whether it has been initialised.
  static constinit thread_local Cache* thread_cache_ __attribute__((tls_model("initial-exec")));

  const Grow grow_;
  uint64_t serial_;  // names this table in thread caches; never used twice in a process
  std::atomic<uint32_t> gate_{0};
  std::atomic<uint32_t> chunk_count_{0};
  std::array<std::atomic<std::atomic<uint64_t>*>, layout::kMaxPinChunks> chunks_{};
  // Views of a slot beyond the first; this process's own memory, so a fork copies it.
  std::array<std::atomic<std::atomic<uint32_t>*>, layout::kMaxPinChunks> extra_{};

  std::mutex mutex_;  // guards what follows
  std::vector<uint32_t> free_;
  std::vector<Mapping> mappings_;
  std::vector<std::unique_ptr<std::atomic<uint32_t>[]>> extra_owned_;
  std::mutex grow_mutex_;  // one grower at a time; held across the call to the node
};

}  // namespace penstock::client

#endif  // PENSTOCK_CLIENT_SESSION_PIN_TABLE_H_
